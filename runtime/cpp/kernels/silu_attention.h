/// The fused body of rec::SiluAttention on the CPU: scores, bias, SiLU and the sum over keys in tiles that stay in the
/// cache. No [Q, S] is ever in memory, and tiles whose scores are all masked are not computed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace oneranker::kernels {

/// One call: silu(q·k + mask + position + key mask + time)·scale @ v, HSTU's Equation 2 with its relative bias; all
/// tensors dense, in the order of their letters.
struct SiluAttention {
  std::int64_t batch = 0;                       // B
  std::int64_t heads = 0;                       // H
  std::int64_t queries = 0;                     // Q; row r stands at position S - Q + r
  std::int64_t keys = 0;                        // S
  std::int64_t width = 0;                       // E, a multiple of 8
  const float* query = nullptr;                 // [B, H, Q, E]
  const float* key = nullptr;                   // [B, H, S, E]
  const float* value = nullptr;                 // [B, H, S, E]
  const float* mask = nullptr;                  // [1 or B, 1, Q, S], additive
  bool mask_per_request = false;                // B, not 1
  const float* key_mask = nullptr;              // [B, 1, 1, S], additive
  const float* position_bias = nullptr;         // [2n - 1], n >= S, the middle one is of a row's own key; nullptr: none
  std::int64_t positions = 0;                   // 2n - 1
  const std::int64_t* query_time = nullptr;     // [B, Q], seconds
  const std::int64_t* key_time = nullptr;       // [B, S]
  const std::int32_t* bucket_starts = nullptr;  // [time_buckets + 1], ascending from 0: the smallest gap of a bucket
  const float* time_bias = nullptr;             // [time_buckets]; nullptr: no bias by time
  std::int64_t time_buckets = 0;
  float scale = 0.0F;
  float* mixed = nullptr;  // [B, H, Q, E]
};

/// Calls `step(data, i)` for i = 0 .. total - 1 on any threads in any order, and returns when all are done.
using ParallelFor = void (*)(void* threads, void (*step)(void*, std::size_t), std::size_t total, void* data);

/// What the processor can do; kBest: the most that it and this build have.
enum class Lanes : std::uint8_t { kBest, kPortable, kAvx2, kAvx512 };

/// Bytes of scratch that a call needs.
std::size_t ScratchBytes(const SiluAttention& call) noexcept;

/// Whether this processor, and this build, have these instructions; kBest and kPortable are everywhere.
bool Has(Lanes lanes) noexcept;
/// "avx512", "avx2" or "portable": what a call with these lanes runs.
std::string_view NameOf(Lanes lanes) noexcept;

/// Write call.mixed. `scratch` has ScratchBytes and the alignment of float. The buckets must be those of HSTU's
/// logarithm or wider: false, with nothing written, where two begin within the same 32nd of an octave. Throws what
/// `parallel` throws.
[[nodiscard]] bool Run(const SiluAttention& call, void* scratch, ParallelFor parallel, void* threads,
                       Lanes lanes = Lanes::kBest);

}  // namespace oneranker::kernels
