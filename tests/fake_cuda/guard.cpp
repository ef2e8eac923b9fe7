// A CUDA device for a torch that was built without one: enough for fake tensors to live and learn on cuda:0.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/FakeGuardImpl.h>

C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::FakeGuardImpl<c10::DeviceType::CUDA>)

struct CUDAHooks : at::CUDAHooksInterface {
  CUDAHooks(at::CUDAHooksArgs) {}
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
};

namespace at {
REGISTER_CUDA_HOOKS(CUDAHooks)
// takes the place of torch's own, because this library is loaded first
namespace accelerator { std::optional<c10::DeviceType> getAccelerator(bool) { return c10::DeviceType::CUDA; } }
}
