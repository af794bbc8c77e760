// A device for tests: its tensors count as apart from the CPU's, its arithmetic is the CPU's.
//
// Operations copy their tensors to the CPU, compute there and copy back; one that mixes devices is refused, as
// an accelerator refuses it. So code that runs here moves its tensors where it has to.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/native_batch_norm.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <c10/util/strides.h>
#include <torch/library.h>

#include <cstring>

namespace {

constexpr auto APART = c10::DeviceType::PrivateUse1;

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* place = c10::alloc_cpu(bytes);
    return {place, place, &c10::free_cpu, c10::Device(APART, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &c10::free_cpu; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

Memory memory;
REGISTER_ALLOCATOR(APART, &memory);

// One device with one stream, on which everything has happened already.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return APART; }
  c10::Device exchangeDevice(c10::Device) const override { return getDevice(); }
  c10::Device getDevice() const override { return {APART, 0}; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return at::globalContext().defaultGenerator(c10::DeviceType::CPU);
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::detail::createCPUGenerator(); }
};

const bool hooked = [] {
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  return true;
}();

at::Tensor empty(
    c10::SymIntArrayRef size,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>,
    std::optional<at::Device>,
    std::optional<bool>,
    std::optional<at::MemoryFormat> format) {
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(
      C10_AS_INTARRAYREF_SLOW(size), &memory, keys, dtype.value_or(at::kFloat), format);
}

at::Tensor empty_strided(
    c10::SymIntArrayRef size,
    c10::SymIntArrayRef stride,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>,
    std::optional<at::Device>,
    std::optional<bool>) {
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &memory, keys, dtype.value_or(at::kFloat));
}

// The same memory, as the CPU sees it.
at::Tensor seen(const at::Tensor& t) {
  if (t.device().type() == c10::DeviceType::CPU) return t;
  auto storage = t.storage();
  c10::DataPtr pointer(
      storage.mutable_data(),
      new c10::Storage(storage),
      [](void* kept) { delete static_cast<c10::Storage*>(kept); },
      c10::Device(c10::DeviceType::CPU));
  c10::Storage plain(c10::Storage::use_byte_size_t{}, storage.nbytes(), std::move(pointer), nullptr, false);
  auto out = at::detail::make_tensor<c10::TensorImpl>(
      std::move(plain), c10::DispatchKeySet(c10::DispatchKey::CPU), t.dtype());
  out.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
  return out;
}

at::Tensor& set(at::Tensor& t, at::Storage storage, int64_t offset, at::IntArrayRef size, at::IntArrayRef stride) {
  auto* self = t.unsafeGetTensorImpl();
  self->set_storage_keep_dtype(std::move(storage));
  if (stride.empty())
    self->set_sizes_and_strides(size, c10::contiguous_strides(size), offset);
  else
    self->set_sizes_and_strides(size, stride, offset);
  return t;
}

at::Tensor& set_whole(at::Tensor& t, at::Storage storage) {
  const auto size = static_cast<int64_t>(storage.nbytes() / t.element_size());
  return set(t, std::move(storage), 0, {size}, {1});
}

at::Tensor& set_like(at::Tensor& t, const at::Tensor& other) {
  return set(t, other.storage(), other.storage_offset(), other.sizes(), other.strides());
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  seen(to).copy_(seen(from));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  if (to.sizes() != from.sizes()) {
    auto fresh = at::empty_like(from, from.options().device(to.device()));
    to.unsafeGetTensorImpl()->set_storage_keep_dtype(fresh.storage());
    to.unsafeGetTensorImpl()->set_sizes_and_strides(fresh.sizes(), fresh.strides(), 0);
  }
  return copy_from(from, to, false);
}

// Convolutions of other devices go to operations of their own, which have no fallback.
at::Tensor convolution(
    const at::Tensor& input,
    const at::Tensor& weight,
    const std::optional<at::Tensor>& bias,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool transposed,
    at::IntArrayRef output_padding,
    int64_t groups) {
  const auto seen_bias = bias.has_value() && bias->defined() ? std::optional(seen(*bias)) : std::nullopt;
  return at::convolution(
             seen(input), seen(weight), seen_bias, stride, padding, dilation, transposed, output_padding, groups)
      .to(input.device());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& gradient,
    const at::Tensor& input,
    const at::Tensor& weight,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool transposed,
    at::IntArrayRef output_padding,
    int64_t groups,
    std::array<bool, 3> wanted) {
  const at::OptionalIntArrayRef bias = wanted[2] ? at::OptionalIntArrayRef({weight.size(0)}) : std::nullopt;
  auto [x, w, b] = at::convolution_backward(
      seen(gradient), seen(input), seen(weight), bias, stride, padding, dilation, transposed, output_padding,
      groups, wanted);
  const auto back = [&](const at::Tensor& t) { return t.defined() ? t.to(input.device()) : t; };
  return {back(x), back(w), back(b)};
}

// It changes the running statistics, which its schema does not say, so a fallback would lose them.
std::tuple<at::Tensor, at::Tensor, at::Tensor> batch_norm(
    const at::Tensor& input,
    const std::optional<at::Tensor>& weight,
    const std::optional<at::Tensor>& bias,
    const std::optional<at::Tensor>& mean,
    const std::optional<at::Tensor>& variance,
    bool training,
    double momentum,
    double eps) {
  const auto look = [](const std::optional<at::Tensor>& t) {
    return t.has_value() && t->defined() ? std::optional(seen(*t)) : std::nullopt;
  };
  auto [out, saved_mean, saved_inverse] = at::native_batch_norm(
      seen(input), look(weight), look(bias), look(mean), look(variance), training, momentum, eps);
  const auto there = input.device();
  return {out.to(there), saved_mean.to(there), saved_inverse.to(there)};
}

void refuse_mixture(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  const auto check = [&](const at::Tensor& t) {
    TORCH_CHECK(
        !t.defined() || t.dim() == 0 || t.device().type() == APART,
        "Expected all tensors to be on the same device, but one is on the CPU: ", op.schema().operator_name());
  };
  const auto count = op.schema().arguments().size();
  for (const auto& value : torch::jit::last(stack, count)) {
    if (value.isTensor()) check(value.toTensor());
    if (value.isTensorList())
      for (const auto& t : value.toTensorVector()) check(t);  // indices are a list of optional ones: let through
  }
}

void on_the_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  refuse_mixture(op, *stack);
  at::native::cpu_fallback(op, stack, /*error_on_views=*/false);
}

}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_the_cpu>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
  m.impl("native_batch_norm", &batch_norm);
  m.impl("unfold", &at::native::unfold);
  m.impl("set_.source_Storage", &set_whole);
  m.impl("set_.source_Storage_storage_offset", &set);
  m.impl("set_.source_Tensor", &set_like);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
}
