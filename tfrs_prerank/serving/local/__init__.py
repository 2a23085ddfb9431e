"""The parts of the local server: versions on disk, and the REST and gRPC sides.

Public is only `tfrs_prerank.serving.server.LocalServer`.
"""
