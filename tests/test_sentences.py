"""Sentences on a pretrained encoder, and PACS on a pretrained network."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from tombola._utils.errors import DataError, MissingExtra, UsageError
from tombola._utils.rng import generator
from tombola.lab.experiments import pacs_pretrained, sentences
from tombola.lab.experiments.pacs_pretrained import PACS_PRETRAINED, PACS_QUESTIONS
from tombola.lab.experiments.sentences import LENGTH, SENTENCES, TASKS, hashed_words, made_up
from tombola.lab.models import efficientnet
from tombola.lab.models import sentences as models
from tombola.lab.models.sentences import SentenceEncoder, TinyEncoder

needs_minilm = pytest.mark.skipif(
    models.weights() is None, reason="MiniLM is not installed (extra pretrained)"
)
REAL = Path(__file__).parents[2] / "shared" / "data" / "sentence_tasks"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder like the real one; read with words by their hash, as no tokenizer may be installed."""
    for split, count in (("train", 30), ("test", 9)):
        texts, tasks, labels = made_up(split, count)
        pd.DataFrame({"text": texts, "task": tasks, "label": labels}).to_parquet(
            tmp_path / f"{split}-0.parquet"
        )
    monkeypatch.setattr(sentences, "word_pieces", lambda: hashed_words)
    return tmp_path


def test_a_tenth_of_every_class_of_every_task_validates(folder):
    data = SENTENCES.load(str(folder), False)
    assert (len(data.train) + len(data.validation), len(data.test)) == (120, 36)
    partition = SENTENCES.partition(data)
    assert partition.names == TASKS
    for k, task in enumerate(TASKS):
        mine = partition.members["validation"][:, k]
        classes = 6 if task == "trec" else 2
        held = data.validation.y[mine].bincount(minlength=classes)
        assert held.tolist() == [max(round(0.1 * 30 / classes), 1)] * classes
    assert data.train.x.shape[1] == LENGTH


def test_what_is_no_folder_of_sentences_is_named(folder):
    with pytest.raises(UsageError, match="no augmentation"):
        SENTENCES.load(str(folder), True)
    table = pd.read_parquet(folder / "test-0.parquet")
    table.assign(task="mrs").to_parquet(folder / "test-0.parquet")
    with pytest.raises(DataError, match="test has task 'mrs'"):
        SENTENCES.load(str(folder), False)
    table.rename(columns={"text": "sentence"}).to_parquet(folder / "test-0.parquet")
    with pytest.raises(DataError, match="no column text, only sentence"):
        SENTENCES.load(str(folder), False)
    (folder / "test-0.parquet").unlink()
    with pytest.raises(DataError, match=r"no test\*\.parquet"):
        SENTENCES.load(str(folder), False)


def test_padding_changes_no_answer_and_embeddings_stay():
    net = TinyEncoder(6, generator(0)).eval()
    ids = hashed_words(["the film is dull", "a very much longer sentence about the phone"])
    together, alone = net(ids), net(ids[:1])
    torch.testing.assert_close(together[:1], alone)
    assert not net.embeddings.weight.requires_grad
    assert torch.isfinite(net(torch.zeros(1, LENGTH, dtype=torch.int64))).all()  # a sentence without a word


def test_without_the_extra_real_data_ask_for_it(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "weights", lambda: None)
    with pytest.raises(MissingExtra, match=r"MiniLM.*pretrained"):
        SENTENCES.load(str(tmp_path), False)
    assert isinstance(sentences.backbone(generator(0)), TinyEncoder)
    monkeypatch.setattr(efficientnet, "installed", lambda: False)
    with pytest.raises(MissingExtra, match=r"EfficientNet-Lite0.*pretrained"):
        efficientnet.Lite0(7, 96)


@needs_minilm
def test_minilm_is_the_one_that_is_packaged():
    net = SentenceEncoder(6, generator(0)).eval()
    prunable = [
        n for n, p in net.named_parameters() if p.ndim == 2 and p.requires_grad and "classifier" not in n
    ]
    assert sum(net.get_parameter(n).numel() for n in prunable) == 10_616_832
    assert not any(p.requires_grad for p in net.encoder.embeddings.parameters())
    tokenise = sentences.word_pieces()
    ids = tokenise(["a cat sat on the mat", "a kitten rested on the rug", "shares fell sharply on monday"])
    with torch.no_grad():
        mask = (ids != 0).long()
        states = net.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        v = torch.nn.functional.normalize(models._mean(states, mask))
    assert float(v[0] @ v[1]) > 0.5 > 0.3 > float(v[0] @ v[2])


@needs_minilm
@pytest.mark.skipif(not REAL.is_dir(), reason="the sentences are not there")
def test_the_real_sentences_are_read():
    data = SENTENCES.load(str(REAL), False)
    assert len(data.train) + len(data.validation) == 24_955
    assert len(data.test) == 5_378


# -- PACS ----------------------------------------------------------------------------------------------------


def test_every_image_is_asked_three_questions():
    data = PACS_QUESTIONS.load(None, False)
    partition = PACS_QUESTIONS.partition(data)
    assert partition.names == ("alive", "object", "style")
    x, y, asked = data.train.x, data.train.y, data.train.columns["question"]
    assert torch.equal(x[0], x[1])
    assert list(asked[:3]) == ["object", "alive", "style"]
    assert torch.equal(y[1::3], pacs_pretrained.ALIVE[y[::3]])
    assert y[2::3].unique().tolist() == [0, 1, 2, 3]
    with pytest.raises(UsageError, match="no augmentation"):
        PACS_QUESTIONS.load(None, True)


@pytest.mark.skipif(
    not efficientnet.installed(), reason="EfficientNet-Lite0 is not installed (extra pretrained)"
)
def test_efficientnet_has_its_weights_and_one_output_layer_of_ours():
    net = PACS_PRETRAINED.backbone(generator(0)).eval()
    assert sum(p.numel() for n, p in net.named_parameters() if "classifier" not in n) == 3_371_008
    data = PACS_PRETRAINED.load(None, False)
    with torch.no_grad():
        assert net(data.inputs("test", torch.arange(2))).shape == (2, 7)
