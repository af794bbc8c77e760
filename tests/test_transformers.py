"""Networks of ``transformers`` with random weights at tiny sizes, as they are."""

import copy
from importlib.util import find_spec

import pytest
import torch

import tombola as tb
from tombola._utils import batch
from tombola.masks.prunable import left_out
from tombola.pruning import prune, transposed
from tombola.pruning.scores.wanda import squared_inputs
from tombola.tickets.export import write_program

transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")

S, L, K, NAMES = 90, 6, 3, ("a", "b", "c")
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
QUICK = {"sparsity": 0.5, "T": 3, "steps": 3, "rewind": 0, "parallel": "no"}


def tokens():
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 40, (S, L), generator=g)
    ids[:, 1] = torch.arange(S) % K + 5
    mask = torch.ones(S, L, dtype=torch.int64)
    mask[::5, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def floats(name, *shape):
    g = torch.Generator().manual_seed(0)
    return {name: torch.randn(S, *shape, generator=g) + (torch.arange(S) % K).view(-1, *[1] * len(shape))}


def make(name):
    t = transformers
    common = {"vocab_size": 40, "num_labels": K, "pad_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "bert":
            return t.BertForSequenceClassification(t.BertConfig(**TINY, **CALM, **common)), tokens()
        if name == "gpt2":
            calm = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
            config = t.GPT2Config(n_embd=16, n_layer=2, n_head=2, **calm, **common)
            return t.GPT2ForSequenceClassification(config), tokens()
        if name == "llama":
            config = t.LlamaConfig(num_key_value_heads=2, **TINY, **common)
            return t.LlamaForSequenceClassification(config), tokens()
        if name == "vit":
            config = t.ViTConfig(image_size=8, patch_size=4, num_labels=K, **TINY, **CALM)
            return t.ViTForImageClassification(config), floats("pixel_values", 3, 8, 8)
        layers = {"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2}
        sizes = {"d_model": 16, "encoder_ffn_dim": 32, "num_mel_bins": 8, "max_source_positions": 10}
        config = t.WhisperConfig(**layers, **sizes, decoder_attention_heads=2, dropout=0.0, **common)
        return t.WhisperForAudioClassification(config), floats("input_features", 8, 20)


@pytest.fixture(params=["bert", "gpt2", "llama", "vit", "whisper"])
def given(request):
    net, x = make(request.param)
    data = tb.Data.of(x, torch.arange(S) % K, validation=0.2, test=0.3)
    return net, data, tb.partition.by_label(data, NAMES)


def find(net, data, partition):
    return tb.rtl(net, tb.objectives.OneVsRest(output="logits"), data, partition, **QUICK)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_they_are_trained_asked_saved_and_loaded(given, tmp_path):
    net, data, partition = given
    tickets, x = find(net, data, partition), data.inputs("test", torch.arange(6))
    assert left_out(net, tickets.scope, share=0.25) == ""  # positions and first convolutions
    with torch.no_grad():
        own = {name: tickets(x, ticket=name).logits for name in NAMES}
        for name in NAMES:
            torch.testing.assert_close(own[name], tickets.bake(name).eval()(**x).logits, rtol=0, atol=1e-6)
        mixed = tickets(x, ticket=[*NAMES, *NAMES])
        rows = torch.stack([own[n][i] for i, n in enumerate([*NAMES, *NAMES])])
        torch.testing.assert_close(mixed.logits, rows, rtol=0, atol=1e-6)
        tickets.router = tb.routing.PrototypeRouter().fit(tickets, data, partition)
        tickets.save(tmp_path / "a.tickets")
        loaded = tb.load(tmp_path / "a.tickets", net)
        assert all(torch.equal(loaded(x, ticket=name).logits, own[name]) for name in NAMES)
        assert loaded.predict(x).tickets == tickets.predict(x).tickets
    forms = ["pt2", "onnx"] if find_spec("onnxruntime") and find_spec("onnxscript") else ["pt2"]
    for form in forms:
        write_program(tmp_path / f"b.{form}", tickets.bake("b"), form, x)
    program = torch.export.load(tmp_path / "b.pt2").module()
    more = data.inputs("test", torch.arange(9))
    torch.testing.assert_close(program(**more)["logits"], tickets.bake("b").eval()(**more).logits)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_activation_checkpointing_changes_no_mask_and_no_bit(given):
    net, data, partition = given
    again = copy.deepcopy(net)
    again.gradient_checkpointing_enable()
    plain, recomputed = find(net, data, partition), find(again, data, partition)
    assert plain.masks.digest() == recomputed.masks.digest()
    for (name, a), b in zip(plain.state_dict().items(), recomputed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_layer_that_stores_its_inputs_first_is_pruned_by_its_outputs():
    net, _ = make("gpt2")
    turned = transposed(net)
    layout = tb.scope(net, include=["transformer.h.0.mlp.c_fc.weight"])
    assert turned[layout.names[0]] == 1
    ones, scores = torch.ones(layout.size, dtype=torch.bool), torch.rand(layout.size)
    mask = prune(ones, scores, layout.size // 2, layout, granularity="channel", transposed=turned)
    columns = layout.unflatten(mask)[layout.names[0]].sum(0)  # [in, out]: a channel is a column
    assert set(columns.tolist()) == {0, 16}


def test_wanda_reads_what_meets_a_weight_that_is_stored_inputs_first():
    net, x = make("gpt2")
    layout = tb.scope(net, include=["transformer.h.1.mlp.c_fc.weight"])
    seen = []
    net.transformer.h[1].mlp.c_fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    squares = squared_inputs(net, layout, [batch.take(x, slice(8))]).view(layout.shapes[0])
    expected = seen[0].detach().double().square().flatten(0, 1).sum(0)
    torch.testing.assert_close(squares, expected[:, None].expand_as(squares))
