"""Students against teachers whose other blocks are silenced or left out by hand."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
import transformers as hf
from model_zoo import CASES, CAUSAL, N_LAYERS, build, inputs_of, result, without_effect
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raydistill.models import FAMILIES, blocks, depth, family_of, keep_layers, model_hash, skip_layers, stacks_of

SUBSETS = {"first and last": [0, 3], "without first": [1, 2], "last only": [3]}
PRE_NORM = [name for name in CASES if not name.startswith(("Bert", "Roberta", "DistilBert"))]
POST_NORM = [name for name in CASES if name not in PRE_NORM]


def layer_maps_of(model, kept: list[int]) -> dict[str, list[int]]:
    """Return a layer map for every stack; the decoder of the small T5 has one block less."""
    return {stack.name: sorted({min(i, depth(model, stack.name) - 1) for i in kept}) for stack in stacks_of(model)}


def others_of(model, layer_maps: dict[str, list[int]]) -> dict[str, list[int]]:
    return {name: [i for i in range(depth(model, name)) if i not in kept] for name, kept in layer_maps.items()}


def test_every_family_has_a_case():
    assert {family_of(case.config_class(**case.settings)).name for case in CASES.values()} == set(FAMILIES)


@pytest.mark.parametrize("name", CASES)
def test_keeping_all_layers_changes_no_bit(name):
    teacher = build(name)
    student = keep_layers(teacher, {stack.name: range(depth(teacher, stack.name)) for stack in stacks_of(teacher)})
    assert torch.equal(result(student), result(teacher))
    assert model_hash(student) == model_hash(teacher)


@pytest.mark.parametrize("kept", SUBSETS.values(), ids=SUBSETS)
@pytest.mark.parametrize("name", CASES)
def test_subset_is_the_teacher_with_the_others_skipped(name, kept):
    teacher = build(name)
    layer_maps = layer_maps_of(teacher, kept)
    student = keep_layers(teacher, layer_maps)
    with skip_layers(teacher, others_of(teacher, layer_maps)):
        expected = result(teacher)
    if CASES[name].exact:
        assert torch.equal(result(student), expected)
    else:
        torch.testing.assert_close(result(student), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(result(teacher), expected, atol=1e-2), "the skipped blocks must matter in this test"
    for stack in stacks_of(teacher):
        assert len(blocks(student, stack.name)) == len(layer_maps[stack.name])
        assert getattr(student.config, stack.depth_key) == len(layer_maps[stack.name])


@pytest.mark.parametrize("kept", SUBSETS.values(), ids=SUBSETS)
def test_index_scaling_keeps_the_old_index_in_double_precision(kept):
    teacher = build("GPT2-scaled-by-index").double()
    student = keep_layers(teacher, kept)
    with skip_layers(teacher, [i for i in range(N_LAYERS) if i not in kept]):
        expected = result(teacher)
    torch.testing.assert_close(result(student), expected, rtol=1e-12, atol=1e-12)
    assert student.config.scale_attn_by_inverse_layer_idx


def test_index_scaling_of_cross_attention():
    teacher = build("GPT2-scaled-by-index", add_cross_attention=True).double()
    student = keep_layers(teacher, [1, 3])
    encoded = torch.randn(3, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with skip_layers(teacher, [0, 2]):
        expected = result(teacher, encoder_hidden_states=encoded)
    torch.testing.assert_close(result(student, encoder_hidden_states=encoded), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PRE_NORM)
def test_skipping_is_adding_zero_in_pre_norm_models(name):
    teacher = build(name)
    for stack in stacks_of(teacher):
        skipped = [0, 2]
        silenced = without_effect(teacher, lambda model, stack=stack: blocks(model, stack.name), skipped)
        assert not torch.equal(result(silenced), result(teacher))
        with skip_layers(teacher, {stack.name: skipped}):
            assert torch.equal(result(teacher), result(silenced))


@pytest.mark.parametrize("name", POST_NORM)
def test_skipping_is_leaving_modules_out_in_post_norm_models(name):
    teacher = build(name)
    shortened = copy.deepcopy(teacher)
    rows = blocks(shortened)
    del rows[2], rows[0]
    with skip_layers(teacher, [0, 2]):
        assert torch.equal(result(teacher), result(shortened))


def test_skipping_ends_after_an_error():
    teacher = build("GPT2Model")
    before = result(teacher)
    with pytest.raises(RuntimeError, match="stop"), skip_layers(teacher, [1]):
        raise RuntimeError("stop")
    assert torch.equal(result(teacher), before)
    assert "forward" not in vars(blocks(teacher)[1])


def step_by_step(model, ids: torch.Tensor) -> torch.Tensor:
    """Return the logits of one call for each position, with a key-value cache."""
    cache, logits = None, []
    with torch.no_grad():
        for position in range(ids.shape[1]):
            output = model(input_ids=ids[:, position : position + 1], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            logits.append(output.logits)
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("name", CAUSAL)
def test_key_value_cache(name):
    teacher = build(name)
    tolerance = {"rtol": 1e-4, "atol": 1e-4}
    # Eager attention and the upcasting kind take their softmax in single precision, whatever the weights are.
    if "upcast" not in name and teacher.config._attn_implementation != "eager":
        teacher, tolerance = teacher.double(), {"rtol": 1e-9, "atol": 1e-9}
    ids = inputs_of(teacher)["input_ids"]
    for kept in ([1, 3], [0, 3]):
        student = keep_layers(teacher, kept)
        stepwise = step_by_step(student, ids)
        torch.testing.assert_close(stepwise, result(student), **tolerance)
        with skip_layers(teacher, [i for i in range(N_LAYERS) if i not in kept]):
            torch.testing.assert_close(step_by_step(teacher, ids), stepwise, **tolerance)


@pytest.mark.parametrize("name", [*CAUSAL, "T5ForConditionalGeneration", "T5-gated-unscaled"])
def test_generation_with_cache_equals_without(name):
    teacher = build(name)
    student = keep_layers(teacher, layer_maps_of(teacher, [1, 3]))
    ids = inputs_of(teacher)["input_ids"]
    settings = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}
    with_cache = student.generate(ids, use_cache=True, **settings)
    assert torch.equal(with_cache, student.generate(ids, use_cache=False, **settings))
    assert with_cache.shape[1] >= 7


def test_t5_stacks_are_cut_apart():
    teacher = build("T5ForConditionalGeneration")
    student = keep_layers(teacher, {"encoder": [1, 2, 3], "decoder": [2]})
    assert (student.config.num_layers, student.config.num_decoder_layers) == (3, 1)
    for stack, kept in (("encoder", [1, 2, 3]), ("decoder", [2])):
        old, new = blocks(teacher, stack), blocks(student, stack)
        bias = new[0].layer[0].SelfAttention.relative_attention_bias.weight
        assert torch.equal(bias, old[0].layer[0].SelfAttention.relative_attention_bias.weight)
        assert torch.equal(new[0].layer[0].SelfAttention.q.weight, old[kept[0]].layer[0].SelfAttention.q.weight)
        assert sum("relative_attention_bias" in key for key, _ in new.named_parameters()) == 1
    decoder_only = keep_layers(teacher, {"decoder": [0, 2]})
    assert (decoder_only.config.num_layers, decoder_only.config.num_decoder_layers) == (N_LAYERS, 2)
    with skip_layers(teacher, {"decoder": [1]}):
        assert torch.equal(result(decoder_only), result(teacher))


@pytest.mark.parametrize(
    ("name", "kept", "layer_types", "max_window_layers"),
    [
        ("Qwen2-sliding", [1, 2, 3], ["full_attention", "sliding_attention", "sliding_attention"], 1),
        ("Qwen2-sliding", [2, 3], ["sliding_attention", "sliding_attention"], 0),
        ("Qwen3-alternating", [0, 1], ["sliding_attention", "full_attention"], 2),
        ("Gemma2-alternating", [1, 3], ["full_attention", "sliding_attention"], None),
        ("Gemma3-alternating", [0, 3], ["sliding_attention", "sliding_attention"], None),
        ("Gemma3-alternating", [1, 2], ["full_attention", "full_attention"], None),
    ],
)
def test_per_layer_lists_follow_the_blocks(name, kept, layer_types, max_window_layers, tmp_path):
    teacher = build(name)
    student = keep_layers(teacher, kept)
    assert student.config.layer_types == layer_types
    assert getattr(student.config, "max_window_layers", None) == max_window_layers
    assert [block.self_attn.layer_idx for block in blocks(student)] == list(range(len(kept)))
    student.save_pretrained(tmp_path)
    loaded = type(student).from_pretrained(tmp_path)
    assert loaded.config.layer_types == layer_types
    assert torch.equal(result(loaded), result(student))
    with skip_layers(teacher, [i for i in range(N_LAYERS) if i not in kept]):
        assert torch.equal(result(teacher), result(student))


@pytest.mark.parametrize("name", CASES)
def test_student_stands_alone(name):
    teacher = build(name)
    teacher_config, teacher_hash = teacher.config.to_dict(), model_hash(teacher)
    storages = {tensor.untyped_storage().data_ptr() for tensor in (*teacher.parameters(), *teacher.buffers())}
    sizes = [
        sum(p.numel() for p in block.parameters())
        for stack in stacks_of(teacher)
        for block in blocks(teacher, stack.name)
    ]
    student = keep_layers(teacher, layer_maps_of(teacher, [0, 3]))

    assert teacher.config.to_dict() == teacher_config
    assert model_hash(teacher) == teacher_hash
    tensors = (*student.parameters(), *student.buffers())
    assert not storages & {tensor.untyped_storage().data_ptr() for tensor in tensors}
    attributes = [value for module in student.modules() for value in vars(module).values() if torch.is_tensor(value)]
    assert not any(tensor.is_meta for tensor in (*tensors, *attributes))
    kept = {"encoder": (0, 3), "decoder": (4, 6)}
    indices = [i for stack in stacks_of(teacher) for i in kept.get(stack.name, (0, 3))]
    removed = sum(sizes) - sum(sizes[i] for i in indices)
    assert removed > 0
    assert sum(p.numel() for p in student.parameters()) == sum(p.numel() for p in teacher.parameters()) - removed


class Allocations(TorchDispatchMode):
    """Counts the bytes of every storage that operations make outside the meta device."""

    def __init__(self):
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.alive = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor) and not tensor.is_meta:
                self.alive.append(tensor)  # so that no address is used twice
                self.sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return output


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "T5ForConditionalGeneration", "Gemma3-alternating"])
def test_removed_blocks_are_never_copied(name):
    teacher = build(name)
    owned = {parameter.untyped_storage().data_ptr() for parameter in teacher.parameters()}
    with Allocations() as allocations:
        student = keep_layers(teacher, {stack.name: [1] for stack in stacks_of(teacher)}, teacher_hash="feed")
    made = sum(size for address, size in allocations.sizes.items() if address not in owned)
    held = sum(tensor.untyped_storage().nbytes() for tensor in (*student.parameters(), *student.buffers()))
    whole = sum(parameter.untyped_storage().nbytes() for parameter in teacher.parameters())
    # The constructor makes a few numbers of its own: rotary frequencies and scales.
    assert held <= made <= held + 1024 < whole


def test_student_holds_no_reference_to_the_teacher():
    teachers = [build(name) for name in ("GPT2-scaled-by-index", "T5Model", "Gemma3-alternating", "BertModel")]
    students = [keep_layers(teacher, layer_maps_of(teacher, [0, 3])) for teacher in teachers]
    gone = [weakref.ref(parameter) for teacher in teachers for parameter in teacher.parameters()]
    expected = [result(student) for student in students]
    del teachers
    gc.collect()
    assert not any(reference() is not None for reference in gone)
    assert all(torch.equal(result(student), before) for student, before in zip(students, expected, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_ties_and_trainability_carry_over(name):
    teacher = build(name)
    next(blocks(teacher, stacks_of(teacher)[0].name)[3].parameters()).requires_grad_(False)
    student = keep_layers(teacher, layer_maps_of(teacher, [1, 3]))

    def ties(model) -> set[frozenset[str]]:
        groups: dict[int, set[str]] = {}
        for key, parameter in model.named_parameters(remove_duplicate=False):
            groups.setdefault(id(parameter), set()).add(key)
        return {frozenset(group) for group in groups.values() if len(group) > 1}

    assert ties(student) == ties(teacher)
    frozen = [key for key, p in student.named_parameters() if not p.requires_grad]
    assert len(frozen) == 1
    assert ".1." in frozen[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision_and_mode_are_kept(dtype):
    teacher = build("GPT2LMHeadModel").to(dtype).train()
    student = keep_layers(teacher, [0, 2])
    assert student.training
    assert all(module.training for module in student.modules())
    assert {p.dtype for p in student.parameters()} == {dtype}
    assert not keep_layers(teacher.eval(), [0, 2]).training


def test_generation_settings_carry_over():
    teacher = build("GPT2LMHeadModel")
    teacher.generation_config.max_new_tokens = 3
    student = keep_layers(teacher, [0, 2])
    assert student.generation_config.max_new_tokens == 3
    assert student.generation_config is not teacher.generation_config


def test_surgery_leaves_the_global_random_state_alone():
    teacher = build("GPT2LMHeadModel")
    before = torch.get_rng_state()
    keep_layers(teacher, [0, 2])
    assert torch.equal(torch.get_rng_state(), before)


def test_student_of_a_student():
    teacher = build("LlamaForCausalLM")
    first = keep_layers(teacher, [0, 2, 3])
    second = keep_layers(first, [1, 2], teacher_hash="abc")
    assert torch.equal(result(second), result(keep_layers(teacher, [2, 3])))
    assert second.config.raydistill["layer_map"] == [1, 2]
    assert second.config.raydistill["teacher"] == "abc"
    assert second.config.raydistill["teacher_raydistill"] == {"layer_map": [0, 2, 3], "teacher": model_hash(teacher)}


def test_base_model_without_pooler_stays_without():
    config = hf.BertConfig(**CASES["BertModel"].settings)
    teacher = hf.BertModel(config, add_pooling_layer=False).eval()
    student = keep_layers(teacher, [0, 2])
    assert student.pooler is None
    assert torch.equal(result(keep_layers(teacher, range(N_LAYERS))), result(teacher))


def test_hash_sees_every_weight_and_its_name():
    model = build("GPT2LMHeadModel")
    digest = model_hash(model)
    assert model_hash(copy.deepcopy(model)) == digest
    assert len(digest) == 32
    for key, parameter in model.named_parameters():
        parameter.data.view(-1)[-1] += 1
        assert model_hash(model) != digest, key
        parameter.data.view(-1)[-1] -= 1
    assert model_hash(copy.deepcopy(model).bfloat16()) != digest
