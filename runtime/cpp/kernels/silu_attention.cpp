#include "silu_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "silu_attention_plan.h"

namespace oneranker::kernels {
namespace {

constexpr float kZeroBelow = -104.0F;  // Weight is 0 below -88; the rest is for what is rounded on the way

const Kernel& KernelOf(Lanes lanes) noexcept {
#ifdef ONERANKER_KERNELS_X86
  if (lanes == Lanes::kBest) lanes = Has(Lanes::kAvx512) ? Lanes::kAvx512 : Lanes::kAvx2;
  if (lanes != Lanes::kPortable && Has(lanes)) return lanes == Lanes::kAvx512 ? kAvx512Kernel : kAvx2Kernel;
#endif
  static_cast<void>(lanes);
  return kPortableKernel;
}

std::int64_t KeyStride(const SiluAttention& call) noexcept {
  return (call.keys + kTileKeys - 1) / kTileKeys * kTileKeys;
}

/// The scratch cut into the plan's arrays.
Plan PlanOf(const SiluAttention& call, void* scratch) noexcept {
  Plan plan;
  plan.call = call;
  plan.key_stride = KeyStride(call);
  auto* next = static_cast<float*>(scratch);
  const auto take = [&next](std::int64_t count) noexcept {
    float* taken = next;
    next += count;
    return taken;
  };
  plan.key_t = take(call.batch * call.heads * call.width * plan.key_stride);
  plan.reach = take(call.batch * call.heads);
  plan.lowest = take(call.batch);
  plan.below_edge = take(kParts);
  plan.above_edge = take(kParts);
  plan.edge = static_cast<std::int32_t*>(static_cast<void*>(take(kParts)));
  return plan;
}

/// The bucket that a gap falls into: the last one that has begun.
std::int64_t BucketOf(const SiluAttention& call, std::int64_t gap) noexcept {
  const std::int32_t* end = call.bucket_starts + call.time_buckets;
  return std::max<std::int64_t>(std::upper_bound(call.bucket_starts, end, gap) - call.bucket_starts - 1, 0);
}

/// Fill the tables of the buckets; false where a 32nd of an octave has two edges.
bool FillBuckets(const Plan& plan) noexcept {
  const SiluAttention& call = plan.call;
  for (std::int64_t part = 0; part < kParts; ++part) {
    const auto begin = [](std::int64_t of) noexcept {  // the smallest whole gap of a part
      const std::int64_t octave = std::int64_t{1} << (of >> kPartBits);
      const std::int64_t parts = std::int64_t{1} << kPartBits;
      return octave + ((of % parts) * octave + parts - 1) / parts;
    };
    const std::int64_t first = begin(part);
    const std::int64_t last = std::min(std::max(begin(part + 1) - 1, first), kLargestGap);
    const std::int64_t below = BucketOf(call, first);
    const std::int64_t above = BucketOf(call, last);
    const std::int32_t edge = above > below ? call.bucket_starts[below + 1] : std::numeric_limits<std::int32_t>::max();
    if (above > below && BucketOf(call, edge) != above) return false;
    plan.edge[part] = edge;
    plan.below_edge[part] = call.time_bias[below];
    plan.above_edge[part] = call.time_bias[above];
  }
  return true;
}

/// The highest bias that no score of the request can lift above kZeroBelow.
float LowestOf(const Plan& plan, std::int64_t request) noexcept {
  const SiluAttention& call = plan.call;
  const float* reach = plan.reach + request * call.heads;
  float most = 0.0F;
  const std::int64_t buckets = call.time_bias == nullptr ? 0 : call.time_buckets;
  for (std::int64_t b = 0; b < buckets; ++b) most = std::fmax(most, std::fabs(call.time_bias[b]));
  return kZeroBelow - most - 1.01F * *std::max_element(reach, reach + call.heads);  // lengths are rounded, too
}

}  // namespace

std::size_t ScratchBytes(const SiluAttention& call) noexcept {
  const std::int64_t floats =
      call.batch * (call.heads * (call.width * KeyStride(call) + 1) + 1) + std::int64_t{3} * kParts;
  return static_cast<std::size_t>(floats) * sizeof(float);
}

bool Has(Lanes lanes) noexcept {
#ifdef ONERANKER_KERNELS_X86
  if (lanes == Lanes::kAvx2) return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  if (lanes == Lanes::kAvx512) {
    return __builtin_cpu_supports("fma") != 0 && __builtin_cpu_supports("avx512f") != 0 &&
           __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
           __builtin_cpu_supports("avx512bw") != 0;
  }
#endif
  return lanes == Lanes::kBest || lanes == Lanes::kPortable;
}

std::string_view NameOf(Lanes lanes) noexcept {
  const Kernel& kernel = KernelOf(lanes);
#ifdef ONERANKER_KERNELS_X86
  if (&kernel == &kAvx512Kernel) return "avx512";
  if (&kernel == &kAvx2Kernel) return "avx2";
#endif
  static_cast<void>(kernel);
  return "portable";
}

bool Run(const SiluAttention& call, void* scratch, ParallelFor parallel, void* threads, Lanes lanes) {
  struct Work {
    Plan plan;
    Kernel kernel;
  };
  if (call.batch * call.heads * call.queries == 0) return true;
  Work work{PlanOf(call, scratch), KernelOf(lanes)};
  if (call.time_bias != nullptr && !FillBuckets(work.plan)) return false;
  parallel(
      threads,
      [](void* data, std::size_t i) {
        const Work& w = *static_cast<const Work*>(data);
        w.kernel.pack(w.plan, static_cast<std::int64_t>(i));
      },
      static_cast<std::size_t>(call.batch * call.heads), &work);
  for (std::int64_t b = 0; b < call.batch; ++b) work.plan.lowest[b] = LowestOf(work.plan, b);
  const std::int64_t blocks = (call.queries + kTileRows - 1) / kTileRows;
  parallel(
      threads,
      [](void* data, std::size_t i) {  // the last rows, which read the most keys, come first
        const Work& w = *static_cast<const Work*>(data);
        const std::int64_t batch = w.plan.call.batch;
        const std::int64_t left = (w.plan.call.queries + kTileRows - 1) / kTileRows - 1;
        const auto at = static_cast<std::int64_t>(i);
        w.kernel.rows(w.plan, at % batch, (left - at / batch) * kTileRows);
      },
      static_cast<std::size_t>(call.batch * blocks), &work);
  return true;
}

}  // namespace oneranker::kernels
