"""Changes that people make to a trained model, each exact, each a few lines over the edits.

Each adaptation is an edit, for use in a plan with `plan.then(...)`, and a function of the same
name that makes a plan of that one edit and applies it.

    activations          other activations: layers, operations and arguments alike
    adapters             bottleneck adapters behind calls, and everything else frozen
    cbam                 a convolutional block attention module behind calls
    channels             another number of input channels
    classes              another number of classes
    configure            settings: dropout rates, regularizers, dtype policies, trainable, …
    data_format          channels first instead of channels last, or back
    features             what layers inside compute, as further outputs
    flatten              nested models dissolved: one graph with all their layers
    fold_batchnorm       batch normalization folded into the convolution or Dense next to it
    fully_convolutional  the head of a classifier as convolutions: images of any size
    graft                a region of one model replaced by a region of another
    inline               composite layers opened: their sublayers and operations in the graph
    input_shape          another input size
    logits               the final softmax or sigmoid off
    lora                 low-rank adaptation of layers, Keras's own; merge_lora: plain layers again
    merge                models side by side: an ensemble, or several heads
    normalization        group or layer normalization instead of batch normalization
    outputs              only some of the outputs
    preprocessing        out of the model (take_preprocessing_out), into it (put_preprocessing_in)
    recurrent            recurrent layers stateful or stateless
    reconfigure          another configuration of the same class: fewer blocks, more words
    squeeze_excite       squeeze-and-excitation behind calls
    stack                one model behind another
    stepwise             a sequence model for decoding step by step; register_stepwise
    stochastic_depth     residual branches dropped at random while training
    strip                layers that only training needs, taken out; training_only registers a class
    transfer             the weights of another model, wherever a layer stands for another; align
    vocabulary           more words in an embedding

Every function says in its docstring what is preserved and what is not. `register` gives a layer
class of one's own the rule by which its channels, classes or words may change in number.
"""

from resect.adapt.activations import Activations, activations
from resect.adapt.carried.reconfigure import reconfigure
from resect.adapt.carried.transfer import Transfer, align, transfer
from resect.adapt.channels import Channels, channels
from resect.adapt.classes import Classes, classes
from resect.adapt.configure import Configure, configure
from resect.adapt.convolutional import Convolutional, fully_convolutional
from resect.adapt.features import Outputs, features, outputs
from resect.adapt.fold import FoldBatchNormalization, fold_batchnorm
from resect.adapt.input_shape import InputShape, input_shape
from resect.adapt.joined.join import Graft, Merge, Stack, graft, merge, stack
from resect.adapt.layout.data_format import DataFormat, data_format
from resect.adapt.layout.rules import register_layout
from resect.adapt.logits import Logits, logits
from resect.adapt.modules.adapters import Adapters, adapters
from resect.adapt.modules.attention import Cbam, SqueezeExcite, cbam, squeeze_excite
from resect.adapt.modules.lora import Lora, lora
from resect.adapt.modules.lora_merging import MergeLora, merge_lora
from resect.adapt.modules.stochastic_depth import StochasticDepth, stochastic_depth
from resect.adapt.nested.flatten import Flatten, flatten
from resect.adapt.nested.inline import Inline, inline
from resect.adapt.normalization import Normalization, normalization
from resect.adapt.preprocessing import (
    Preprocess,
    Preprocessing,
    WithoutPreprocessing,
    put_preprocessing_in,
    take_preprocessing_out,
)
from resect.adapt.rules import Positions, Rule, register, rule_of
from resect.adapt.steps.recurrent import Recurrent, recurrent
from resect.adapt.steps.rules import register_stepwise
from resect.adapt.steps.stepwise import StepModel, StepStart, Stepwise, stepwise
from resect.adapt.strip import Strip, strip, training_only
from resect.adapt.vocabulary import Vocabulary, vocabulary
from resect.edits import EDITS

EDITS.update(
    {
        cls.verb: cls
        for cls in (
            Activations,
            Adapters,
            Cbam,
            Channels,
            Classes,
            Configure,
            Convolutional,
            DataFormat,
            Flatten,
            FoldBatchNormalization,
            Graft,
            Inline,
            InputShape,
            Logits,
            Lora,
            Merge,
            MergeLora,
            Normalization,
            Outputs,
            Preprocess,
            Preprocessing,
            Recurrent,
            SqueezeExcite,
            Stack,
            StepModel,
            StepStart,
            StochasticDepth,
            Strip,
            Vocabulary,
            WithoutPreprocessing,
        )
    }
)

__all__ = [
    "Activations",
    "Adapters",
    "Cbam",
    "Channels",
    "Classes",
    "Configure",
    "Convolutional",
    "DataFormat",
    "Flatten",
    "FoldBatchNormalization",
    "Graft",
    "Inline",
    "InputShape",
    "Logits",
    "Lora",
    "Merge",
    "MergeLora",
    "Normalization",
    "Outputs",
    "Positions",
    "Preprocess",
    "Preprocessing",
    "Recurrent",
    "Rule",
    "SqueezeExcite",
    "Stack",
    "StepModel",
    "StepStart",
    "Stepwise",
    "StochasticDepth",
    "Strip",
    "Transfer",
    "Vocabulary",
    "WithoutPreprocessing",
    "activations",
    "align",
    "adapters",
    "cbam",
    "channels",
    "classes",
    "configure",
    "data_format",
    "features",
    "flatten",
    "fold_batchnorm",
    "fully_convolutional",
    "graft",
    "inline",
    "input_shape",
    "logits",
    "lora",
    "merge",
    "merge_lora",
    "normalization",
    "outputs",
    "put_preprocessing_in",
    "recurrent",
    "reconfigure",
    "register",
    "register_layout",
    "register_stepwise",
    "rule_of",
    "squeeze_excite",
    "stack",
    "stepwise",
    "stochastic_depth",
    "strip",
    "take_preprocessing_out",
    "training_only",
    "transfer",
    "vocabulary",
]
