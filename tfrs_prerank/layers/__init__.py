"""Keras layers for towers: field gates, feature crosses, attention and experts."""

from tfrs_prerank.layers.additive_attention import (
    AdditiveAttention as AdditiveAttention,
)
from tfrs_prerank.layers.behavior_transformer import (
    BehaviorTransformer as BehaviorTransformer,
)
from tfrs_prerank.layers.bilinear_interaction import (
    BilinearInteraction as BilinearInteraction,
)
from tfrs_prerank.layers.cin import CIN as CIN
from tfrs_prerank.layers.cross_network import CrossNetwork as CrossNetwork
from tfrs_prerank.layers.dice import Dice as Dice
from tfrs_prerank.layers.dot_product_attention import (
    DotProductAttention as DotProductAttention,
)
from tfrs_prerank.layers.feature_attention import FeatureAttention as FeatureAttention
from tfrs_prerank.layers.fibinet import FiBiNet as FiBiNet
from tfrs_prerank.layers.late_interaction import LateInteraction as LateInteraction
from tfrs_prerank.layers.light_se import LightSE as LightSE
from tfrs_prerank.layers.max_sim import MaxSim as MaxSim
from tfrs_prerank.layers.mmoe import MMoE as MMoE
from tfrs_prerank.layers.ple import PLE as PLE
from tfrs_prerank.layers.senet import SENet as SENet
from tfrs_prerank.layers.senet_plus import SENetPlus as SENetPlus
from tfrs_prerank.layers.sentence_bert import SentenceBert as SentenceBert
from tfrs_prerank.layers.target_attention import TargetAttention as TargetAttention
from tfrs_prerank.layers.text_cnn import TextCNN as TextCNN
from tfrs_prerank.layers.zero_attention import ZeroAttention as ZeroAttention

__all__ = [
    "CIN",
    "PLE",
    "AdditiveAttention",
    "BehaviorTransformer",
    "BilinearInteraction",
    "CrossNetwork",
    "Dice",
    "DotProductAttention",
    "FeatureAttention",
    "FiBiNet",
    "LateInteraction",
    "LightSE",
    "MMoE",
    "MaxSim",
    "SENet",
    "SENetPlus",
    "SentenceBert",
    "TargetAttention",
    "TextCNN",
    "ZeroAttention",
]
