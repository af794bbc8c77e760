"""Networks that are pruned block by block from disk, against the same done in memory."""

import importlib.util
import itertools
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tombola as tb
from tombola._utils import io
from tombola._utils.errors import DataError, PruningError, TombolaError, UsageError
from tombola._utils.rng import generator
from tombola.cli.main import main
from tombola.masks.prunable import scope
from tombola.pruning import prune
from tombola.pruning.blockwise import products, sparsegpt, squares
from tombola.pruning.schedules import kept
from tombola.pruning.scores.wanda import squared_inputs
from tombola.tickets.blocks import Blocks
from tombola.tickets.writer import TicketWriter

NAMES, SPARSITY = ("a", "b", "c"), 0.6
needs_llama = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("transformers", "accelerate"))),
    reason="needs transformers and accelerate",
)


# -- SparseGPT against the brain surgeon ---------------------------------------------------------------------


def surgeon(w_I, hessian, mask_I):
    """Pruned one after another, each lost weight is made up for by those after it: explicit inverses."""
    w = w_I.clone()
    for j in (~mask_I).nonzero()[:, 0].tolist():
        inverse = torch.linalg.inv(hessian[j:, j:])
        w[j:] -= w[j] / inverse[0, 0] * inverse[:, 0]
        w[j] = 0
    return w


@pytest.mark.parametrize("columns", [3, 8, 128])
def test_corrected_weights_are_those_of_the_optimal_brain_surgeon(columns):
    x = torch.randn(40, 11, generator=generator(0), dtype=torch.float64)
    x[:, 1] = x[:, 0] + 0.1 * x[:, 1]
    weight = torch.randn(5, 11, generator=generator(1), dtype=torch.float64)
    mask, found = sparsegpt(weight, products(x), 23, damping=0.01, columns=columns)
    hessian = products(x)
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(11)
    assert int(mask.sum()) == 23
    for o in range(5):
        assert torch.allclose(found[o] * mask[o], surgeon(weight[o], hessian, mask[o]) * mask[o], atol=1e-9)


def test_a_mask_of_all_columns_is_by_the_first_saliency_and_correction_helps():
    x = torch.randn(200, 16, generator=generator(0)) @ torch.randn(16, 16, generator=generator(2))
    weight = torch.randn(8, 16, generator=generator(1))
    mask, found = sparsegpt(weight, products(x), 64, damping=0.0)
    # the saliency of a weight given those after it (Eq. 3 of the paper)
    H = products(x).double()
    last = torch.stack([torch.linalg.inv(H[j:, j:])[0, 0] for j in range(16)])
    saliency = weight.double().square() / last
    assert saliency[mask].min() > saliency[~mask].max()
    lost = [((x @ (w * mask - weight).T) ** 2).sum() for w in (found, weight)]
    assert lost[0] < 0.7 * lost[1]


def test_inputs_that_are_always_zero_lose_their_weights_and_singular_ones_are_refused():
    x = torch.randn(20, 4, generator=generator(0))
    x[:, 2] = 0
    mask, found = sparsegpt(torch.ones(3, 4), products(x), 9)
    assert not mask[:, 2].any()
    assert torch.equal(found[:, 2], torch.zeros(3))
    with pytest.raises(PruningError, match="cannot be inverted"):
        sparsegpt(torch.ones(2, 2), torch.tensor([[1.0, 1.0], [1.0, 1.0]]), 2, damping=0.0)


# -- a file written as it is made ----------------------------------------------------------------------------


def test_a_file_written_in_pieces_is_read_as_one_written_at_once(tmp_path):
    masks = [torch.rand(3, n, generator=generator(n)) < 0.4 for n in (5, 16, 1, 30)]
    weights = [torch.randn(n, generator=generator(n)) for n in (5, 16, 1, 30)]
    with TicketWriter(3, tmp_path) as writer:
        for pair in zip(weights, masks, strict=True):
            writer.add(*pair)
        size = io.write(
            tmp_path / "x.tickets",
            writer.tensors()
            | {"odd": io.Spooled.of(torch.uint8, (3,), lambda: torch.arange(3, dtype=torch.uint8))},
            {"b": 1},
        )
    tensors, facts = io.read(tmp_path / "x.tickets")
    every = torch.cat(masks, 1)
    assert size == (tmp_path / "x.tickets").stat().st_size
    assert facts == {"b": 1}
    assert tensors["odd"].tolist() == [0, 1, 2]
    assert torch.equal(tensors["weights"], torch.cat(weights)[every.any(0)])
    found = tb.MaskSet.unpack(tb.Layout(("w",), ((52,),)), NAMES, tensors["masks"])
    assert torch.equal(found.masks_KN, every)


# -- networks on disk ----------------------------------------------------------------------------------------


def llama(**changes):
    from transformers import LlamaConfig, LlamaForCausalLM

    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "vocab_size": 40}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    torch.manual_seed(0)
    net = LlamaForCausalLM(LlamaConfig(**{**size, **heads, **changes})).eval()
    for p in net.parameters():
        p.data = p.data * 10 if p.ndim > 1 else p.data + 0.1 * torch.randn_like(p)  # far from linear
    return net


@pytest.fixture
def disk(tmp_path):
    net = llama()
    net.save_pretrained(tmp_path / "net")
    g = generator(3)
    low = {"a": 0, "b": 10, "c": 20}
    tokens = {name: torch.randint(at, at + 20, (4, 9), generator=g) for name, at in low.items()}
    return net, tmp_path / "net", tokens


def linear(net):
    return {n: m for n, m in net.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"}


def inputs_of(net, name, ids):
    found = []
    hook = net.get_submodule(name).register_forward_pre_hook(
        lambda _, args: found.append(args[0].flatten(0, 1))
    )
    with torch.no_grad():
        net(ids)
    hook.remove()
    return torch.cat(found)


SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "vocab_size": 40,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
WINDOWS = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
KINDS = [  # all but the first two give layers masks, or rotary embeddings, of their own
    ("Llama", {}),
    ("OPT", {"ffn_dim": 24, "word_embed_proj_dim": 16}),
    ("Gemma2", WINDOWS),
    ("Gemma3Text", WINDOWS),
    ("Qwen2", {**WINDOWS, "use_sliding_window": True, "max_window_layers": 2}),
    ("Cohere2", WINDOWS),
]


@needs_llama
@pytest.mark.parametrize(("kind", "changes"), KINDS)
def test_states_behind_all_layers_are_those_of_the_network(kind, changes, tmp_path):
    import transformers

    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **changes})
    torch.manual_seed(0)
    net = transformers.AutoModelForCausalLM.from_config(config).eval()
    for p in net.parameters():
        p.data = p.data * 10 if p.ndim > 1 else p.data + 0.1 * torch.randn_like(p)
    net.save_pretrained(tmp_path)
    ids = torch.randint(4, 40, (3, 12), generator=generator(4))
    blocks, right = Blocks(tmp_path), []
    last = net.get_submodule(f"{blocks.prefix}.{len(blocks) - 1}")
    last.register_forward_hook(lambda _, __, out: right.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        net(ids)
        states = blocks.begin({"a": ids[:1], "b": ids[1:]})
        states = torch.cat([*states.values()])
        for i in range(len(blocks)):
            states = blocks.through(i, blocks.layer(i), states)
    torch.testing.assert_close(states, right[0], rtol=1e-4, atol=1e-4)


@needs_llama
def test_a_layer_with_numbers_that_are_none_is_named(disk, tmp_path):
    net, folder, tokens = disk
    for score in ("wanda", "magnitude", "sparsegpt"):
        net.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
        net.save_pretrained(folder)
        with pytest.raises(PruningError, match=r"'a', model.layers.1.mlp.up_proj.weight: scores"):
            tb.oneshot(folder, tokens, tmp_path / score, sparsity=0.5, score=score)


@needs_llama
def test_buffers_of_layers_are_read_and_kept(tmp_path, monkeypatch):
    from transformers.models.llama import modeling_llama

    class Scaled(modeling_llama.LlamaDecoderLayer):
        def __init__(self, *given):
            super().__init__(*given)
            self.register_buffer("factor", torch.ones(1))

        def forward(self, *given, **named):
            return super().forward(*given, **named) * self.factor

    monkeypatch.setattr(modeling_llama, "LlamaDecoderLayer", Scaled)
    net = llama()
    net.model.layers[0].factor.fill_(0.5)
    net.save_pretrained(tmp_path / "net")
    blocks, ids = Blocks(tmp_path / "net"), torch.randint(40, (2, 9), generator=generator(4))
    with torch.no_grad():
        states = blocks.through(0, blocks.layer(0), blocks.begin({"a": ids})["a"])
        assert torch.equal(states, net.model(ids, output_hidden_states=True).hidden_states[1])
    (file,) = tb.oneshot(tmp_path / "net", {"a": ids}, tmp_path / "a.tickets", sparsity=0.5)
    assert float(tb.load(file, llama()).bake("a").model.layers[0].factor) == 0.5


@needs_llama
def test_masks_of_dense_inputs_are_those_of_a_search_in_memory(disk, tmp_path):
    net, folder, tokens = disk
    [file] = tb.oneshot(folder, tokens, tmp_path / "x.tickets", sparsity=SPARSITY, inputs="dense")
    tickets, layers = tb.load(file, net), scope(net, exclude=["*embed*"])
    assert tickets.scope == layers
    assert tickets.names == NAMES
    for name in NAMES:
        scores = (
            squared_inputs(net, layers, [tokens[name]]).sqrt()
            * layers.flatten(dict(net.named_parameters())).abs()
        )
        ones = torch.ones(layers.size, dtype=torch.bool)
        expected = prune(ones, scores, kept(layers.size, SPARSITY), layers, "row", transposed={})
        assert torch.equal(tickets[name], expected)


@needs_llama
def test_masks_of_pruned_inputs_are_those_found_layer_after_layer_in_memory(disk, tmp_path):
    net, folder, tokens = disk
    [file] = tb.oneshot(folder, tokens, tmp_path / "x.tickets", sparsity=SPARSITY)
    tickets = tb.load(file, net)
    for domain in NAMES:
        pruned = llama()
        for i in range(3):
            block = [n for n in linear(pruned) if f"layers.{i}." in n]
            sums = {n: squares(inputs_of(pruned, n, tokens[domain])) for n in block}
            for n in block:
                layer = pruned.get_submodule(n)
                scores, layout = (
                    layer.weight.detach().double().abs() * sums[n].sqrt(),
                    tb.Layout(("w",), (tuple(layer.weight.shape),)),
                )
                ones, keep = torch.ones(layout.size, dtype=torch.bool), tickets.masks.scope
                count = int(tickets.scope.unflatten(tickets[domain])[f"{n}.weight"].sum())
                mask = prune(ones, scores.flatten(), count, layout, "row", transposed={}).view_as(scores)
                assert torch.equal(tickets.scope.unflatten(tickets[domain])[f"{n}.weight"], mask)
                assert count == pytest.approx(0.4 * layout.size, abs=1), keep
                layer.weight.data *= mask
        with torch.no_grad():
            ids = tokens[domain]
            assert torch.allclose(tickets(ids, ticket=domain).logits, pruned(ids).logits, atol=1e-5)


@needs_llama
def test_corrected_networks_are_files_of_their_own_and_compute_what_memory_does(disk, tmp_path):
    net, folder, tokens = disk
    found = tb.oneshot(folder, tokens, tmp_path / "out", sparsity=SPARSITY, score="sparsegpt")
    assert [file.name for file in found] == ["a.tickets", "b.tickets", "c.tickets"]
    for file, domain in zip(found, NAMES, strict=True):
        tickets, pruned = tb.load(file, net), llama()
        masks = tickets.scope.unflatten(tickets[domain])
        for i in range(3):
            block = [n for n in linear(pruned) if f"layers.{i}." in n]
            sums = {n: products(inputs_of(pruned, n, tokens[domain])) for n in block}
            for n in block:
                layer = pruned.get_submodule(n)
                mask, weight = sparsegpt(layer.weight.detach(), sums[n], int(masks[f"{n}.weight"].sum()))
                assert torch.equal(mask, masks[f"{n}.weight"])
                layer.weight.data = weight * mask
        with torch.no_grad():
            ids = tokens[domain]
            assert torch.allclose(tickets(ids, ticket=domain).logits, pruned(ids).logits, atol=1e-4)


@needs_llama
def test_half_precision_stays_what_it_is_on_disk_and_untied_outputs_too(tmp_path):
    net = llama(tie_word_embeddings=False).to(torch.bfloat16)
    net.save_pretrained(tmp_path / "net", max_shard_size="10KB")
    assert len([*(tmp_path / "net").glob("*.safetensors")]) > 1
    [file] = tb.oneshot(tmp_path / "net", {"all": torch.zeros(1, 4).long()}, tmp_path / "x", sparsity=0.5)
    tickets = tb.load(file, net)
    for name, kept_weight in tickets.weights("all").items():
        own = dict(net.named_parameters())[name]
        assert kept_weight.dtype == own.dtype == torch.bfloat16
        assert torch.equal(kept_weight[kept_weight != 0], own[kept_weight != 0])
    assert torch.equal(tickets.backbone.lm_head.weight, net.lm_head.weight)


@needs_llama
def test_one_layer_at_a_time_is_in_memory(disk, tmp_path, monkeypatch):
    from tombola.tickets.blocks import Blocks

    _, folder, tokens = disk
    read, filled = Blocks.layer, []

    def layer(self, i):
        assert all(p.is_meta for p in self.shell.parameters())
        filled.append(i)
        return read(self, i)

    monkeypatch.setattr(Blocks, "layer", layer)
    tb.oneshot(folder, tokens, tmp_path / "x", sparsity=0.5)
    assert filled == [0, 1, 2]  # each once, for all domains


@needs_llama
def test_bad_input_is_named_before_anything_is_computed(disk, tmp_path):
    _, folder, tokens = disk
    out = tmp_path / "x"
    for match, kind, given in (
        ("no score 'wandb'", UsageError, {"score": "wandb"}),
        ("inputs are pruned or dense", UsageError, {"inputs": "sparse"}),
    ):
        with pytest.raises(kind, match=match):
            tb.oneshot(folder, tokens, out, **{"sparsity": 0.5, **given})
    with pytest.raises(DataError, match="tokens of 'a' reach 40, the vocabulary has 40"):
        tb.oneshot(folder, {"a": torch.full((1, 3), 40)}, out, sparsity=0.5)
    with pytest.raises(DataError, match="one number of tokens"):
        tb.oneshot(folder, {"a": torch.zeros(1, 3).long(), "b": torch.zeros(1, 4).long()}, out, sparsity=0.5)
    with pytest.raises(TombolaError, match=r"no \*\.safetensors"):
        tb.oneshot(tmp_path, tokens, out, sparsity=0.5)
    (folder / "config.json").write_text((folder / "config.json").read_text().replace(": 24,", ": 25,"))
    with pytest.raises(TombolaError, match=r"has shape \(24, 16\), its config.json says \(25, 16\)"):
        tb.oneshot(folder, tokens, out, sparsity=0.5)
    assert not out.exists()
    assert list(itertools.islice(tmp_path.glob(".x*"), 1)) == []


@needs_llama
def test_other_files_in_the_folder_are_not_the_network(disk):
    _, folder, _ = disk
    before = Blocks(folder).stored("model.norm.weight")
    save_file({"model.norm.weight": before + 1}, folder / "model_old.safetensors")
    assert torch.equal(Blocks(folder).stored("model.norm.weight"), before)
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    with pytest.raises(TombolaError, match=r"in a.safetensors and in model_old.safetensors of"):
        Blocks(folder)


# -- the command line ----------------------------------------------------------------------------------------


@needs_llama
def test_the_command_reads_texts_and_says_what_it_wrote(disk, tmp_path, capsys):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    _, folder, _ = disk
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(40)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    for name, start in (("low", 0), ("high", 20)):
        (tmp_path / f"{name}.txt").write_text(" ".join(f"w{start + i % 20}" for i in range(50)))
    texts = [f"{name}={tmp_path / name}.txt" for name in ("low", "high")]
    common = ["oneshot", str(folder), str(tmp_path / "x.tickets"), "--length", "8", "--json", "--force"]
    with pytest.raises(SystemExit, match="0"):
        main([*common, *texts, "--blocks", "4", "--sparsity", "0.6"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["ticket"] for row in rows] == ["low", "high"]
    size = sum(m.weight.numel() for m in linear(llama()).values())
    assert {row["weights"] for row in rows} == {kept(size, 0.6)}
    with pytest.raises(SystemExit, match="1"):
        main([*common, *texts, "--blocks", "7"])
    assert "low.txt has 6 blocks of 8 tokens, 7 are asked for" in capsys.readouterr().err
    own = str(folder / "model.safetensors")
    with pytest.raises(SystemExit, match="2"):
        main([*common[:2], own, *common[3:], *texts])
    assert "is what is read here" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*common, "low"])
    assert "a text is given once, as NAME=FILE: got 'low'" in capsys.readouterr().err
