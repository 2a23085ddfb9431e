"""gRPC and the TF Serving protocol buffers, in one place, with one error message."""

try:
    import grpc  # noqa: F401
    from tensorflow_serving.apis import (  # noqa: F401
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_log_pb2,
        prediction_service_pb2_grpc,
    )
except ImportError as error:
    raise ImportError(
        f"Serving needs gRPC and the TF Serving stubs ({error}); "
        "run: pip install 'tfrs_prerank[serving]'"
    ) from error

# TF Serving's own limit. gRPC's default for received messages is 4 MB, which long
# candidate lists exceed.
MAX_MESSAGE_BYTES = 2**31 - 1
