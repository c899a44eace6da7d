/// What a tile of rows and keys does, for one set of instructions: included by one source file for each of them, which
/// is compiled for that set. Everything is in an unnamed namespace and nothing of the standard library is called, so
/// that no function compiled here for a wide processor can be linked in the place of another file's.
#pragma once

#include "silu_attention_plan.h"

namespace oneranker::kernels {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kRowsAtOnce = 8;  // 16 accumulators of 32 registers
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kRowsAtOnce = 4;  // 8 of 16
#else
constexpr int kLanes = 4;
constexpr int kRowsAtOnce = 4;
#endif

template <int N>
struct Vectors {
  using Float [[gnu::vector_size(N * 4)]] = float;
  using Int [[gnu::vector_size(N * 4)]] = std::int32_t;
};
using Float = Vectors<kLanes>::Float;
using Int = Vectors<kLanes>::Int;

template <typename V>
[[gnu::always_inline]] inline V Load(const float* from) noexcept {
  V value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

template <typename V>
[[gnu::always_inline]] inline void Store(float* to, V value) noexcept {
  __builtin_memcpy(to, &value, sizeof value);
}

/// silu(x) * scale; exactly 0 below -88, where silu is less than any normal float.
[[gnu::always_inline]] inline Float Weight(Float x, float scale) noexcept {
  constexpr float kLow = -88.0F;
  const Float y = x < kLow ? Float{} - kLow : -x;    // e^y is wanted, y <= 88; NaN stays
  const Float z = y < -87.0F ? Float{} - 87.0F : y;  // and no smaller than a normal number
  constexpr float kRound = 12582912.0F;              // 1.5 * 2^23: a float this large has no fraction
  const Float shifted = z * 1.44269504088896341F + kRound;
  const Float whole = shifted - kRound;
  Float r = z - whole * 0.693359375F;
  r = r + whole * 2.12194440e-4F;
  Float p = r * 1.9875691500e-4F + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * (r * r) + r + 1.0F;
  Int bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  bits = (bits - 0x4B400000 + 127) << 23;
  Float power;
  __builtin_memcpy(&power, &bits, sizeof power);
  const Float weight = x / (p * power + 1.0F) * scale;
  return x < kLow ? Float{} : weight;
}

/// The scores of R rows, q·k + bias, for `columns` keys of a tile, a multiple of two vectors.
template <int R>
void Score(std::int64_t width, const float* query, const float* key_t, std::int64_t columns, const float* bias,
           float* scores) noexcept {
  for (std::int64_t c = 0; c < columns; c += 2 * kLanes) {
    Float left[R] = {};
    Float right[R] = {};
    for (std::int64_t e = 0; e < width; ++e) {
      const float* column = key_t + e * kTileKeys + c;
      const auto first = Load<Float>(column);
      const auto second = Load<Float>(column + kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const float q = query[r * width + e];
        left[r] += first * q;
        right[r] += second * q;
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const std::int64_t at = r * kTileKeys + c;
      Store(scores + at, left[r] + Load<Float>(bias + at));
      Store(scores + at + kLanes, right[r] + Load<Float>(bias + at + kLanes));
    }
  }
}

/// Scores become weights, in place. Apart from Score, whose sums would lose their registers to the constants of this.
[[gnu::noinline]] void Weigh(std::int64_t rows, std::int64_t columns, float scale, float* scores) noexcept {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; c += kLanes) {
      float* at = scores + r * kTileKeys + c;
      Store(at, Weight(Load<Float>(at), scale));
    }
  }
}

/// R rows of the answer, N vectors of it: += weights @ values, over `keys` keys.
template <int R, typename V, int N>
void MixPart(const Plan& plan, const float* weights, const float* value, std::int64_t keys, float* mixed) noexcept {
  constexpr std::int64_t kWide = sizeof(V) / sizeof(float);
  const std::int64_t width = plan.call.width;
  V sums[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < N; ++n) sums[r][n] = Load<V>(mixed + r * width + n * kWide);
  }
  for (std::int64_t k = 0; k < keys; ++k) {
    V row[N];
    for (int n = 0; n < N; ++n) row[n] = Load<V>(value + k * width + n * kWide);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const float weight = weights[r * kTileKeys + k];
      for (int n = 0; n < N; ++n) sums[r][n] += row[n] * weight;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < N; ++n) Store(mixed + r * width + n * kWide, sums[r][n]);
  }
}

template <int R>
void Mix(const Plan& plan, const float* weights, const float* value, std::int64_t keys, float* mixed) noexcept {
  constexpr int kTail = 8;  // E is a multiple of it
  std::int64_t e = 0;
  for (; e + 2 * kLanes <= plan.call.width; e += 2 * kLanes) {
    MixPart<R, Float, 2>(plan, weights, value + e, keys, mixed + e);
  }
  for (; e < plan.call.width; e += kTail) {
    MixPart<R, Vectors<kTail>::Float, 1>(plan, weights, value + e, keys, mixed + e);
  }
}

/// The largest squared length of the rows of [rows, width]; infinite where one is no number.
float LongestSquared(const float* from, std::int64_t rows, std::int64_t width) noexcept {
  float longest = 0.0F;
  for (std::int64_t r = 0; r < rows; ++r) {
    Vectors<8>::Float squares = {};
    for (std::int64_t e = 0; e < width; e += 8) {
      const auto part = Load<Vectors<8>::Float>(from + r * width + e);
      squares += part * part;
    }
    float sum = 0.0F;
    for (int i = 0; i < 8; ++i) sum += squares[i];
    if (!(sum <= longest)) longest = sum < __builtin_inff() ? sum : __builtin_inff();
  }
  return longest;
}

/// Keys of one head, a tile after the other with a row for each of E, and how large a score can get.
void Pack(const Plan& plan, std::int64_t head) noexcept {
  const SiluAttention& call = plan.call;
  const float* key = call.key + head * call.keys * call.width;
  const float* query = call.query + head * call.queries * call.width;
  float* key_t = plan.key_t + head * plan.key_stride * call.width;
  for (std::int64_t first = 0; first < call.keys; first += kTileKeys) {
    const std::int64_t keys = call.keys - first < kTileKeys ? call.keys - first : kTileKeys;
    for (std::int64_t e = 0; e < call.width; ++e) {
      float* out = key_t + first * call.width + e * kTileKeys;
      for (std::int64_t k = 0; k < keys; ++k) out[k] = key[(first + k) * call.width + e];
      for (std::int64_t k = keys; k < kTileKeys; ++k) out[k] = 0.0F;
    }
  }
  const float reach = __builtin_sqrtf(LongestSquared(key, call.keys, call.width)) *
                      __builtin_sqrtf(LongestSquared(query, call.queries, call.width));
  plan.reach[head] = reach < __builtin_inff() ? reach : __builtin_inff();  // infinity times 0 is no number
}

/// Bias of a tile without that of time; false where its highest is below `lowest`, so that every weight is 0.
bool AddMasks(const Plan& plan, const Tile& tile, float lowest, float* bias) noexcept {
  const SiluAttention& call = plan.call;
  const std::int64_t request = call.mask_per_request ? tile.request : 0;
  const float* key_mask = call.key_mask + tile.request * call.keys + tile.key;
  bool read = false;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const std::int64_t row = tile.row + r;
    const float* mask = call.mask + (request * call.queries + row) * call.keys + tile.key;
    float* out = bias + r * kTileKeys;
    int above = 0;
    if (call.position_bias == nullptr) {
      for (std::int64_t k = 0; k < tile.keys; ++k) {
        out[k] = mask[k] + key_mask[k];
        above |= static_cast<int>(!(out[k] < lowest));  // NaN is above
      }
    } else {
      const float* position =
          call.position_bias + call.positions / 2 + tile.key - (call.keys - call.queries + row);  // of the first key
      for (std::int64_t k = 0; k < tile.keys; ++k) {
        out[k] = mask[k] + position[k] + key_mask[k];
        above |= static_cast<int>(!(out[k] < lowest));
      }
    }
    read |= above != 0;
  }
  return read;
}

/// The bias by time on top: the gap's leading bits say in which 32nd of an octave it is, and there one edge at most.
void AddTime(const Plan& plan, const Tile& tile, float* bias) noexcept {
  const SiluAttention& call = plan.call;
  const std::int64_t* key_time = call.key_time + tile.request * call.keys + tile.key;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const std::int64_t now = call.query_time[tile.request * call.queries + tile.row + r];
    std::int32_t gaps[kTileKeys];
    for (std::int64_t k = 0; k < tile.keys; ++k) {
      const auto gap = static_cast<std::uint64_t>(now > key_time[k] ? now : key_time[k]) -
                       static_cast<std::uint64_t>(now > key_time[k] ? key_time[k] : now);
      const std::uint64_t limited = gap > kLargestGap ? kLargestGap : gap;
      gaps[k] = static_cast<std::int32_t>(limited < 1 ? 1 : limited);
    }
    float* out = bias + r * kTileKeys;
    for (std::int64_t k = 0; k < tile.keys; ++k) {
      const std::int32_t fine = gaps[k] >= (1 << 24) ? 0xFF : 0;  // beyond a float's 24 bits: dropped, not rounded up
      const auto exact = static_cast<float>(gaps[k] & ~fine);
      const std::int32_t part = (__builtin_bit_cast(std::int32_t, exact) >> (23 - kPartBits)) - (127 << kPartBits);
      const float below = plan.below_edge[part];
      const float above = plan.above_edge[part];
      out[k] += gaps[k] >= plan.edge[part] ? above : below;
    }
  }
}

/// All heads of one tile; the bias is the same for them.
void TileOfHeads(const Plan& plan, const Tile& tile, const float* bias) noexcept {
  const SiluAttention& call = plan.call;
  alignas(64) float weights[kRowsAtOnce * kTileKeys];
  const std::int64_t columns = (tile.keys + 2 * kLanes - 1) / (2 * kLanes) * (2 * kLanes);
  for (std::int64_t h = 0; h < call.heads; ++h) {
    const std::int64_t head = tile.request * call.heads + h;
    const float* query = call.query + (head * call.queries + tile.row) * call.width;
    const float* key_t = plan.key_t + (head * plan.key_stride + tile.key) * call.width;
    const float* value = call.value + (head * call.keys + tile.key) * call.width;
    float* mixed = call.mixed + (head * call.queries + tile.row) * call.width;
    std::int64_t r = 0;
    for (; r + kRowsAtOnce <= tile.rows; r += kRowsAtOnce) {
      Score<kRowsAtOnce>(call.width, query + r * call.width, key_t, columns, bias + r * kTileKeys, weights);
      Weigh(kRowsAtOnce, columns, call.scale, weights);
      Mix<kRowsAtOnce>(plan, weights, value, tile.keys, mixed + r * call.width);
    }
    for (; r < tile.rows; ++r) {
      Score<1>(call.width, query + r * call.width, key_t, columns, bias + r * kTileKeys, weights);
      Weigh(1, columns, call.scale, weights);
      Mix<1>(plan, weights, value, tile.keys, mixed + r * call.width);
    }
  }
}

/// A block of rows of one request against all of its keys.
void Rows(const Plan& plan, std::int64_t request, std::int64_t row) noexcept {
  const SiluAttention& call = plan.call;
  alignas(64) float bias[kTileRows * kTileKeys] = {};  // beyond the keys: any number, its weight is read by nobody
  Tile tile{request, row, call.queries - row < kTileRows ? call.queries - row : kTileRows, 0, 0};
  for (std::int64_t h = 0; h < call.heads; ++h) {
    float* mixed = call.mixed + ((request * call.heads + h) * call.queries + row) * call.width;
    for (std::int64_t i = 0; i < tile.rows * call.width; ++i) mixed[i] = 0.0F;
  }
  const float lowest = plan.lowest[request];
  for (; tile.key < call.keys; tile.key += kTileKeys) {
    tile.keys = call.keys - tile.key < kTileKeys ? call.keys - tile.key : kTileKeys;
    if (!AddMasks(plan, tile, lowest, bias)) continue;
    if (call.time_bias != nullptr) AddTime(plan, tile, bias);
    TileOfHeads(plan, tile, bias);
  }
}

}  // namespace
}  // namespace oneranker::kernels
