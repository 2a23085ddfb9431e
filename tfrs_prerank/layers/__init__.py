"""Keras layers for towers: field gates, feature crosses and attention."""

from tfrs_prerank.layers.cross_network import CrossNetwork as CrossNetwork
from tfrs_prerank.layers.dot_product_attention import (
    DotProductAttention as DotProductAttention,
)
from tfrs_prerank.layers.senet import SENet as SENet
from tfrs_prerank.layers.zero_attention import ZeroAttention as ZeroAttention

__all__ = ["CrossNetwork", "DotProductAttention", "SENet", "ZeroAttention"]
