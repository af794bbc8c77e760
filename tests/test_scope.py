"""Scope: which weights may be pruned."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

from tombola._utils.errors import ScopeError
from tombola.lab.models.ghostnet import GhostNet
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import default_names, match, output_layer, scope
from tombola.objectives import OneVsRest
from tombola.training.joint import train_jointly


def language_model():
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(11, 4),
            "norm": nn.LayerNorm(4),
            "mix": nn.Linear(4, 4),
            "head": nn.Linear(4, 11, bias=False),
            "last": nn.Linear(11, 2),
        }
    )
    model["head"].weight = model["embed"].weight
    return model


def convnet():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )


def test_default_scope_is_convolutions_and_linear_layers_without_the_classifier():
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.ConvTranspose1d(2, 2, 3), nn.Linear(4, 4), nn.Linear(4, 2))
    assert scope(model).names == ("0.weight", "1.weight", "2.weight")
    assert scope(model).shapes == ((2, 1, 3), (2, 2, 3), (4, 4))


def test_default_scope_has_no_norms_biases_or_classifier():
    assert scope(convnet()).names == ("0.weight",)


def test_embeddings_and_weights_tied_to_them_are_not_in_the_default_scope():
    assert scope(language_model()).names == ("mix.weight",)


def test_embedding_bags_keep_their_tied_weights_too():
    model = nn.Sequential(
        nn.EmbeddingBag(5, 4), nn.Linear(4, 5, bias=False), nn.Linear(5, 5), nn.Linear(5, 2)
    )
    model[1].weight = model[0].weight
    assert scope(model).names == ("2.weight",)


def test_a_weight_tied_to_the_classifier_is_not_in_the_default_scope():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    assert scope(model).names == ("1.weight",)


def test_every_kind_of_embedding_norm_and_bias_can_be_included_by_name():
    model = language_model()
    assert scope(model, include=["embed.weight", "norm.*", "mix.bias"]).names == (
        "embed.weight",
        "norm.weight",
        "norm.bias",
        "mix.bias",
    )


def test_weights_tied_between_layers_appear_once_under_the_first_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[1].weight = model[0].weight
    assert scope(model).names == ("0.weight",)


def test_a_layer_used_twice_appears_once():
    shared = nn.Linear(4, 4)
    assert scope(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 2))).names == ("0.weight",)


def conv_head(outputs=3):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, outputs, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def test_a_final_convolution_is_the_classifier():
    assert output_layer(conv_head()) == "2"
    assert scope(conv_head()).names == ("0.weight",)


def test_a_final_transposed_convolution_is_out_of_scope():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 3, 3))
    assert output_layer(model) == "2"
    assert scope(model).names == ("0.weight",)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(2), nn.InstanceNorm2d(2), nn.GroupNorm(1, 2)])
def test_a_convolution_with_a_norm_after_it_computes_features_and_no_outputs(norm):
    model = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(1, 2, 3), norm)
    assert output_layer(model) is None
    assert scope(model).names == ("0.weight", "1.weight")


def test_a_linear_classifier_may_have_a_norm_after_it():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(4, 2), nn.BatchNorm1d(2, affine=False))
    assert output_layer(model) == "1"


def test_ghostnet_has_the_prunable_weights_of_the_paper():
    assert output_layer(GhostNet()) == "classifier"
    assert scope(GhostNet()).size == 125_832


@pytest.mark.parametrize("outputs", [3, 5])
def test_one_vs_rest_moves_a_row_of_a_convolutional_head_in_its_own_steps_only(outputs, make_problem):
    """Adam's momentum of ticket 0 must not go on moving its row while ticket 1 trains."""
    problem = make_problem(conv_head(outputs))
    masks = MaskSet.dense(problem.f.scope, problem.partition.names)
    both, one = (train_jointly(problem, problem.f.theta0(), masks, 1, tickets=t) for t in ([0, 1], [0]))
    for name in ("2.weight", "2.bias"):
        after_both, after_one = (problem.f.shared.unflatten(t.shared_R.detach())[name] for t in (both, one))
        assert torch.equal(after_both[0], after_one[0])
        assert not torch.equal(after_both[1], after_one[1])


def test_one_vs_rest_owns_all_of_what_has_no_row_of_its_own():
    shared = Layout(("other.weight", "head.weight"), ((3, 2), (2, 4)))
    assert bool(OneVsRest().trainable(shared, (), 0).all())
    assert bool(OneVsRest().trainable(shared, ["head.weight"], 2).all())
    assert OneVsRest().trainable(shared, ["head.weight"], 1).tolist() == [True] * 6 + [False] * 4 + [True] * 4


@pytest.mark.parametrize("layer", [nn.Conv2d(1, 2, 3), nn.ConvTranspose2d(1, 2, 3)])
def test_a_single_convolution_is_in_scope(layer):
    assert output_layer(layer) is None
    assert scope(nn.Sequential(layer)).names == ("0.weight",)


def test_a_single_linear_layer_is_no_classifier():
    assert output_layer(nn.Linear(4, 2)) is None
    assert scope(nn.Linear(4, 2)).names == ("weight",)


def test_the_classifier_is_found_in_nested_modules():
    model = nn.Sequential(
        nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.ReLU(), nn.Linear(4, 2), nn.Softmax(1))
    )
    assert output_layer(model) == "1.1"
    assert scope(model).names == ("0.0.weight",)


def test_include_can_name_the_classifier():
    assert scope(convnet(), include=["*.weight"], exclude=["1.*", "2.*"]).names == ("0.weight", "5.weight")


def test_exclude_wins_over_include():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    assert scope(model, exclude=["0.*"]).names == ("1.weight",)
    assert scope(model, include=["0.weight", "1.weight"], exclude=["1.weight"]).names == ("0.weight",)


def test_first_and_last_layer_stay_dense_or_take_part_as_asked():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    assert scope(model, exclude=["0.*"]).names == ("1.weight",)
    assert scope(model, include=["*.weight"], exclude=["0.*"]).names == ("1.weight", "2.weight")


def test_attention_is_in_scope_by_its_output_and_by_its_input():
    layer = nn.TransformerEncoderLayer(4, 2, 8)
    model = nn.ModuleDict(
        {"encoder": nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), "head": nn.Linear(4, 2)}
    )
    names = {name.removeprefix("encoder.layers.0.") for name in scope(model).names}
    own = {"self_attn.in_proj_weight", "self_attn.out_proj.weight"}
    assert names == {*own, "linear1.weight", "linear2.weight"}


def test_projections_of_other_widths_are_three():
    layer = nn.MultiheadAttention(8, 2, kdim=4, vdim=6)
    assert default_names(nn.Sequential(layer, nn.Linear(8, 2))) == {
        "0.q_proj_weight",
        "0.k_proj_weight",
        "0.v_proj_weight",
        "0.out_proj.weight",
    }


def test_what_another_parameter_makes_is_in_scope_where_zeros_stay():
    for norm, name in ((weight_norm, "original1"), (spectral_norm, "original"), (orthogonal, None)):
        model = nn.Sequential(norm(nn.Linear(4, 4)), nn.Linear(4, 2))
        found = default_names(model)
        assert found == ({f"0.parametrizations.weight.{name}"} if name else set())
        for stored in found:
            with torch.no_grad():
                model.get_parameter(stored)[0, 1:3] = 0
            assert model[0].weight[0].eq(0).tolist() == [False, True, True, False]


def test_the_order_is_that_of_the_model_not_of_the_patterns():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    assert scope(model, include=["2.weight", "0.weight"]).names == ("0.weight", "2.weight")


def test_a_string_is_one_pattern():
    assert scope(convnet(), include="0.weight").names == ("0.weight",)
    assert match(["head.weight", "head.bias", "w"], "head.*") == {"head.weight", "head.bias"}


@pytest.mark.parametrize("where", ["include", "exclude"])
def test_an_unmatched_pattern_is_an_error_that_names_near_misses(where):
    with pytest.raises(ScopeError, match=r"no parameter 'mix\.wieght'; did you mean 'mix\.weight'"):
        scope(language_model(), **{where: ["mix.wieght"]})


def test_one_unmatched_glob_among_matching_ones_is_still_an_error():
    with pytest.raises(ScopeError, match=r"blocks\.\*.*Known: .*mix\.weight"):
        scope(language_model(), include=["mix.*", "blocks.*"])


def test_globs_tell_capitals_apart():
    with pytest.raises(ScopeError):
        scope(convnet(), include=["0.Weight"])


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Sequential(nn.Embedding(3, 2), nn.LayerNorm(2))])
def test_a_model_without_prunable_weights_is_an_error(model):
    with pytest.raises(ScopeError, match="no prunable weight"):
        scope(model)


def test_excluding_everything_is_an_error():
    with pytest.raises(ScopeError, match="no prunable weight"):
        scope(convnet(), exclude=["*"])


def test_weights_of_several_dtypes_are_an_error():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).to(torch.float64), nn.Linear(4, 2))
    with pytest.raises(ScopeError, match="dtypes"):
        scope(model)
    assert scope(model, exclude=["1.*"]).names == ("0.weight",)


def test_the_scope_leaves_the_model_alone():
    model = convnet()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    scope(model)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
