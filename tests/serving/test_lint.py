"""The SavedModel linter: what it refuses, where it says so, and what it lets pass."""

import doctest
import pathlib

import pytest
import tensorflow as tf
import tensorflow_text as tf_text
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from tfrs_prerank.serving import lint
from tfrs_prerank.serving.lint import LintError, lint_saved_model

FLOATS = tf.TensorSpec([None], tf.float32, name="x")
STRINGS = tf.TensorSpec([None], tf.string, name="x")


class Lambda(tf.Module):
    """Exports one function, and tracks what it reads."""

    def __init__(self, function, spec=FLOATS, **options):
        super().__init__()
        # AutoGraph has nothing to do here and warns of lambdas it cannot read.
        self.call = tf.function(
            function, input_signature=[spec], autograph=False, **options
        )


def save(directory, module, **signatures):
    tf.saved_model.save(module, str(directory), signatures or {"f": module.call})
    return directory


def edit(directory, change):
    """Rewrites `saved_model.pb` after `change(SavedModel)`."""
    path = pathlib.Path(directory) / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    change(model)
    path.write_bytes(model.SerializeToString())


def finding(directory, **options):
    """Returns the one finding of a SavedModel that must not pass."""
    with pytest.raises(LintError) as error:
        lint_saved_model(directory, **options)
    assert str(error.value).startswith(f"{directory}: ")
    (line,) = error.value.findings
    assert "\n" not in line
    return line


def test_plain_export_passes_and_is_described(tmp_path):
    module = Lambda(lambda x: {"y": 2.0 * x})
    report = lint_saved_model(save(tmp_path, module))
    assert report.directory == str(tmp_path)
    assert report.serving_version == "2.20"
    assert report.pb_size == (tmp_path / "saved_model.pb").stat().st_size
    assert report.signatures == ("f",)
    # What the function holds and what saving adds, without names of functions.
    assert {"Mul", "Placeholder", "SaveV2", "RestoreV2"} <= set(report.ops)
    assert not [op for op in report.ops if op.startswith("__inference")]
    assert report.large_constants == ()
    model = saved_model_pb2.SavedModel.FromString(
        (tmp_path / "saved_model.pb").read_bytes()
    )
    graph = model.meta_graphs[0].graph_def
    assert report.functions == len(graph.library.function)
    assert report.nodes == len(graph.node) + sum(
        len(function.node_def) for function in graph.library.function
    )


def test_unknown_op_in_main_graph_is_named_with_its_node(tmp_path):
    save(tmp_path, Lambda(lambda x: {"y": 2.0 * x}))

    def change(model):
        (node,) = [n for n in model.meta_graphs[0].graph_def.node if n.op == "NoOp"]
        node.op, node.name = "Scann>ScannSearch", "search"

    edit(tmp_path, change)
    line = finding(tmp_path)
    assert line.startswith(
        "op 'Scann>ScannSearch' at node 'search' in main graph is not in "
        "TensorFlow Serving 2.20"
    )
    assert "ScaNN" in line


def test_unknown_ops_in_nested_functions_are_counted_per_function(tmp_path):
    @tf.function
    def inner(x):
        return x * 2.0 * 3.0

    save(tmp_path, Lambda(lambda x: {"y": inner(x)}))

    def change(model):
        for function in model.meta_graphs[0].graph_def.library.function:
            for node in function.node_def:
                if node.op == "Mul":
                    node.op = "Company>FastMul"

    edit(tmp_path, change)
    line = finding(tmp_path)
    assert "op 'Company>FastMul' at node 'mul' and 1 more" in line
    assert "in function '__inference_inner_" in line


def test_second_meta_graph_is_checked_too(tmp_path):
    save(tmp_path, Lambda(lambda x: {"y": 2.0 * x}))

    def change(model):
        second = model.meta_graphs.add()
        second.CopyFrom(model.meta_graphs[0])
        second.graph_def.node.add(name="odd", op="Company>Odd")

    edit(tmp_path, change)
    assert "at node 'odd' in main graph of meta graph 1 " in finding(tmp_path)


def test_op_of_a_branch_is_found(tmp_path):
    def call(x):
        # Without a static condition TensorFlow keeps both branches as functions.
        y = tf.cond(
            tf.reduce_sum(x) > 0.0, lambda: tf.py_function(abs, [x], x.dtype), lambda: x
        )
        return {"y": tf.ensure_shape(y, [None])}

    line = finding(save(tmp_path, Lambda(call)))
    assert line.startswith("op 'EagerPyFunc' at node ")
    assert "in function 'cond_true_" in line
    assert "calls Python" in line


@pytest.mark.parametrize("op", ["PyFunc", "PyFuncStateless"])
def test_numpy_function_is_refused(tmp_path, op):
    def call(x):
        y = tf.numpy_function(abs, [x], x.dtype, stateful=op == "PyFunc")
        return {"y": tf.ensure_shape(y, [None])}

    line = finding(save(tmp_path, Lambda(call)))
    assert line.startswith(f"op {op!r} at node ")
    assert "in function '__inference_call_" in line


def test_compiled_function_is_refused_by_name(tmp_path):
    @tf.function(jit_compile=True)
    def dense(x):
        return 2.0 * x

    line = finding(save(tmp_path, Lambda(lambda x: {"y": dense(x)})))
    assert line.startswith("function '__inference_dense_")
    assert "_XlaMustCompile" in line and "jit_compile=True" in line


def test_compiled_call_is_refused_by_node(tmp_path):
    @tf.function
    def dense(x):
        return 2.0 * x

    save(tmp_path, Lambda(lambda x: {"y": dense(x)}))

    def change(model):
        for function in model.meta_graphs[0].graph_def.library.function:
            for node in function.node_def:
                if "_dense_" in node.attr["f"].func.name:
                    node.attr["_XlaMustCompile"].b = True

    edit(tmp_path, change)
    line = finding(tmp_path)
    assert line.startswith("op 'PartitionedCall' at node 'PartitionedCall' in function")
    assert "_XlaMustCompile" in line


def test_dataset_in_a_function_is_refused(tmp_path):
    def call(x):
        dataset = tf.data.Dataset.from_tensor_slices(x)
        total = dataset.reduce(0.0, lambda total, value: total + value)
        return {"y": total[tf.newaxis]}

    save(tmp_path, Lambda(call))
    with pytest.raises(LintError) as error:
        lint_saved_model(tmp_path)
    ops = {line.split("'")[1] for line in error.value.findings}
    assert ops == {"TensorSliceDataset", "ReduceDataset"}
    assert all("belongs to tf.data" in line for line in error.value.findings)


def test_ops_of_tf_data_are_told_from_others():
    # Datasets come with ops whose names do not say so, and others sound like them:
    # a sample of each.
    known = lint.op_list("2.20")
    refused = {op for op in known if "tf.data" in str(lint._op_reason(op, known, ""))}
    assert {
        "AnonymousIteratorV3",
        "AnonymousMemoryCache",
        "AnonymousSeedGenerator",
        "BatchDatasetV2",
        "DatasetToSingleElement",
        "IteratorGetNext",
        "OneShotIterator",
        "StatsAggregatorHandle",
        "ThreadPoolHandle",
    } <= refused
    assert not refused & {"Batch", "BatchFunction", "MapStage", "OptionalNone", "While"}


def two_megabytes():
    return tf.random.stateless_uniform([500_000], seed=(1, 2))  # 4 bytes each


@pytest.mark.parametrize("captured", [True, False])
def test_constant_of_two_megabytes_is_refused(tmp_path, captured):
    table = two_megabytes() if captured else two_megabytes().numpy()
    save(tmp_path, Lambda(lambda x: {"y": x + tf.gather(table, [1])}))
    line = finding(tmp_path)
    # An eager tensor is captured and saved in the main graph; an array is made a
    # constant where it is used.
    place = "main graph" if captured else "function '__inference_<lambda>_"
    assert line.startswith("constant ") and f"in {place}" in line
    size = int(line.split(" has ")[1].split()[0])
    assert 2_000_000 <= size < 2_000_200
    assert "(read by GatherV2)" in line
    assert "hold it in a tf.Variable" in line


def test_constant_of_one_value_counts_as_loaded(tmp_path):
    save(tmp_path, Lambda(lambda x: {"y": x}))

    def change(model):
        node = model.meta_graphs[0].graph_def.node.add(name="zeros", op="Const")
        tensor = node.attr["value"].tensor
        tensor.dtype = types_pb2.DT_FLOAT
        tensor.tensor_shape.dim.add(size=300_000)
        tensor.float_val.append(0.0)

    edit(tmp_path, change)
    # 300,000 floats of 4 bytes, stored as one.
    assert "constant 'zeros' in main graph has 1200000 bytes" in finding(tmp_path)


def test_constant_below_the_limit_passes(tmp_path):
    table = tf.random.stateless_uniform([240_000], seed=(1, 2))  # 960,000 bytes
    module = Lambda(lambda x: {"y": x + tf.gather(table, [1])})
    assert lint_saved_model(save(tmp_path, module)).pb_size > 960_000


def test_allowed_constant_is_reported_and_every_reader_must_be_allowed(tmp_path):
    table = two_megabytes()
    save(tmp_path, Lambda(lambda x: {"y": x + tf.gather(table, [1]) + table[0]}))
    with pytest.raises(LintError, match=r"read by GatherV2, StridedSlice"):
        lint_saved_model(tmp_path, allow_large=["GatherV2"])
    report = lint_saved_model(tmp_path, allow_large=["GatherV2", "StridedSlice"])
    (constant,) = report.large_constants
    assert constant.place == "main graph"
    assert constant.read_by == ("GatherV2", "StridedSlice")
    assert 2_000_000 <= constant.size < 2_000_200
    by_name = lint_saved_model(tmp_path, allow_large=[constant.name])
    assert by_name.large_constants == (constant,)


def test_readers_are_followed_through_branches_and_loops(tmp_path):
    table = two_megabytes()

    def call(x):
        y = tf.cond(
            tf.reduce_sum(x) > 0.0, lambda: tf.gather(table, [1]), lambda: x[:1]
        )
        z = tf.while_loop(
            lambda i, _: i < 3,
            lambda i, total: (i + 1, total + tf.reduce_max(table)),
            [0, 0.0],
        )[1]
        return {"y": x + y + z}

    line = finding(save(tmp_path, Lambda(call)))
    assert "(read by GatherV2, Max)" in line


def sparse_sum(x):
    return {"y": tf.ensure_shape(tf.sparse.reduce_sum(x, 1), [None])}


@pytest.mark.parametrize(
    ("function", "spec", "expected"),
    [
        pytest.param(
            lambda x: {"y": tf.reduce_sum(x, 1)},
            tf.RaggedTensorSpec([None, None], tf.float32),
            "signature 'f' takes a ragged tensor",
            id="ragged-input",
        ),
        pytest.param(
            sparse_sum,
            tf.SparseTensorSpec([None, None], tf.float32),
            "signature 'f' takes a sparse tensor",
            id="sparse-input",
        ),
        pytest.param(
            lambda x: {"y": tf.strings.split(x)},
            STRINGS,
            "output 'y' of signature 'f' is a RaggedTensor",
            id="ragged-output",
        ),
        pytest.param(
            lambda x: {"y": tf.sparse.from_dense(x)},
            FLOATS,
            "output 'y' of signature 'f' is sparse",
            id="sparse-output",
        ),
        pytest.param(
            lambda x: {
                "y": tf.raw_ops.TensorListFromTensor(
                    tensor=x, element_shape=tf.constant([], tf.int32)
                )
            },
            FLOATS,
            "output 'y' of signature 'f' has dtype DT_VARIANT",
            id="variant-output",
        ),
        pytest.param(
            lambda x: {"y": tf.reduce_sum(x)},
            tf.TensorSpec(None, tf.float32, name="x"),
            "input 'x' of signature 'f' has unknown rank",
            id="unknown-rank",
        ),
    ],
)
def test_border_is_dense(tmp_path, function, spec, expected):
    assert finding(save(tmp_path, Lambda(function, spec))).startswith(expected)


def test_ragged_tensors_inside_are_fine(tmp_path):
    def call(x):
        return {"y": tf.strings.split(x).to_tensor(shape=[None, 3])}

    report = lint_saved_model(save(tmp_path, Lambda(call, STRINGS)))
    assert "RaggedTensorToTensor" in report.ops


def test_invalid_dtype_is_refused_but_not_that_of_the_initialiser(tmp_path):
    save(tmp_path, Lambda(lambda x: {"y": 2.0 * x}))

    def change(model):
        signatures = model.meta_graphs[0].signature_def
        assert "__saved_model_init_op" in signatures  # of no dtype and unknown rank
        signatures["f"].inputs["x"].dtype = types_pb2.DT_INVALID

    edit(tmp_path, change)
    assert "input 'x' of signature 'f' has dtype DT_INVALID" in finding(tmp_path)


def test_all_findings_are_listed_a_line_each(tmp_path):
    def call(x):
        y = tf.numpy_function(abs, [x], x.dtype)
        return {"y": y}  # of unknown rank

    save(tmp_path, Lambda(call, jit_compile=True))
    with pytest.raises(LintError) as error:
        lint_saved_model(tmp_path)
    assert len(error.value.findings) == 3
    assert len(str(error.value).splitlines()) == 3


def test_missing_file_is_one_line(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"saved_model\.pb: no such file; "
    ) as e:
        lint_saved_model(tmp_path / "7")
    assert str(tmp_path / "7") in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not a SavedModel", "not a SavedModel"), (b"", "no meta graph")],
)
def test_broken_file_is_one_line(tmp_path, content, message):
    (tmp_path / "saved_model.pb").write_bytes(content)
    assert message in finding(tmp_path)


def test_truncated_file_is_refused(tmp_path):
    save(tmp_path, Lambda(lambda x: {"y": 2.0 * x}))
    path = tmp_path / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:-20])
    assert "not a SavedModel" in finding(tmp_path)


def test_arguments_are_checked(tmp_path):
    with pytest.raises(ValueError, match=r"received '2\.18'.*'2\.19', '2\.20'"):
        lint_saved_model(tmp_path, serving_version="2.18")
    with pytest.raises(TypeError, match=r"\['GatherV2'\]"):
        lint_saved_model(tmp_path, allow_large="GatherV2")


# Tokenizers ----------------------------------------------------------------------

VOCABULARY = ["[PAD]", "[UNK]", "red", "shoe", "##s"]


def dense(ragged):
    return {"y": ragged.to_tensor(shape=[None, 8])}


def vocabulary_table(path):
    path.write_text("\n".join(VOCABULARY))
    initializer = tf.lookup.TextFileInitializer(
        str(path),
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    return tf.lookup.StaticVocabularyTable(initializer, num_oov_buckets=1)


def whitespace(_):
    tokenizer = tf_text.WhitespaceTokenizer()
    return None, lambda x: dense(tokenizer.tokenize(x))


def unicode_script(_):
    tokenizer = tf_text.UnicodeScriptTokenizer()
    return None, lambda x: dense(tokenizer.tokenize(tf_text.case_fold_utf8(x)))


def wordpiece(path):
    table = vocabulary_table(path)
    tokenizer = tf_text.WordpieceTokenizer(table, token_out_type=tf.int64)
    return table, lambda x: dense(tokenizer.tokenize(x))


def fast_wordpiece(_):
    tokenizer = tf_text.FastWordpieceTokenizer(VOCABULARY)
    return tokenizer, lambda x: dense(tokenizer.tokenize(x))


def bert(path):
    tokenizer = tf_text.BertTokenizer(vocabulary_table(path), token_out_type=tf.int64)
    return tokenizer, lambda x: dense(tokenizer.tokenize(x).merge_dims(1, 2))


def round_robin_trimmer(_):
    trimmer = tf_text.RoundRobinTrimmer(max_seq_length=4)
    return None, lambda x: dense(trimmer.trim([tf.strings.split(x)])[0])


TOKENIZERS = {
    # tokenizer: (an op it must use, runs on TF Serving 2.19)
    whitespace: ("TFText>WhitespaceTokenizeWithOffsetsV2", True),
    unicode_script: ("UnicodeScriptTokenizeWithOffsets", True),
    wordpiece: ("WordpieceTokenizeWithOffsets", True),
    fast_wordpiece: ("FastWordpieceTokenizeWithOffsets", True),
    bert: ("RegexSplitWithOffsets", True),
    round_robin_trimmer: ("TFText>RoundRobinTrim", False),
}


@pytest.mark.parametrize("make", TOKENIZERS, ids=lambda make: make.__name__)
def test_tokenizer_on_both_releases(tmp_path, make):
    op, on_2_19 = TOKENIZERS[make]
    tracked, call = make(tmp_path / "vocabulary.txt")
    module = Lambda(call, STRINGS)
    module.tracked = tracked
    directory = save(tmp_path / "export", module)
    assert op in lint_saved_model(directory).ops
    if on_2_19:
        assert op in lint_saved_model(directory, serving_version="2.19").ops
    else:
        line = finding(directory, serving_version="2.19")
        assert line.startswith(f"op {op!r} at node ")
        assert "is not in TensorFlow Serving 2.19 but in 2.20" in line


def test_large_fast_wordpiece_vocabulary_is_allowed_by_the_op_that_reads_it(tmp_path):
    words = [f"{n * 7919:07x}" for n in range(20_000)]
    tokenizer = tf_text.FastWordpieceTokenizer([*VOCABULARY, *words])
    module = Lambda(lambda x: dense(tokenizer.tokenize(x)), STRINGS)
    module.tokenizer = tokenizer
    save(tmp_path, module)
    assert "read by FastWordpieceTokenizeWithOffsets" in finding(tmp_path)
    report = lint_saved_model(
        tmp_path, allow_large=["FastWordpieceTokenizeWithOffsets"]
    )
    (constant,) = report.large_constants
    assert constant.read_by == ("FastWordpieceTokenizeWithOffsets",)
    assert 1_000_000 < constant.size < report.pb_size


# Op lists ------------------------------------------------------------------------


def test_op_lists_differ_as_the_releases_do():
    new, old = lint.op_list("2.20"), lint.op_list("2.19")
    assert old < new
    assert new - old == {
        "DecodeWebP",
        "TFText>RoundRobinGenerateMasks",
        "TFText>RoundRobinTrim",
        "TFText>Utf8Binarize",
    }
    assert {"CaseFoldUTF8", "SimpleMLInferenceOpWithHandle", "NoOp", "If"} <= old
    assert not [op for op in new if op.startswith(("_", "Scann>", "Xla"))]
    assert not new & {"PyFunc", "EagerPyFunc", "CudnnRNN", "TPUCompile"}


def test_op_list_of_the_pinned_line_holds_only_ops_that_are_registered():
    # Decision Forests is linked into the server but not installed here.
    core = {op for op in lint.op_list("2.20") if hasattr(tf.raw_ops, op)}
    rest = {op for op in lint.op_list("2.20") - core if not op.startswith("SimpleML")}
    assert len(core) > 1200
    assert len(rest) == 38  # TF-Text 2.20


def test_example_in_the_docstring():
    assert doctest.testmod(lint).failed == 0
