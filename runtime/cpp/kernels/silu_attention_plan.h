/// What all tiles of one call share; plain data, for it is read by code that is compiled for other processors.
#pragma once

#include <cstdint>

#include "silu_attention.h"

namespace oneranker::kernels {

constexpr std::int64_t kTileRows = 32;  // with kTileKeys: keys, values and bias of a tile stay in the nearest cache
constexpr std::int64_t kTileKeys = 64;  // a multiple of two vectors of any kind
constexpr std::int64_t kLargestGap = 2147483646;  // seconds; a longer gap counts as this one
constexpr int kPartBits = 5;
constexpr int kParts = 31 << kPartBits;  // 32nds of the octaves from 1 to 2^31

/// The call, and what is worked out before its tiles; the arrays lie in the scratch.
struct Plan {
  SiluAttention call;
  std::int64_t key_stride = 0;  // S, filled up to whole tiles
  float* key_t = nullptr;       // [B, H, key_stride / kTileKeys, E, kTileKeys]
  float* reach = nullptr;       // [B, H]: no |q·k| is larger; infinite where one is no number
  float* lowest = nullptr;      // [B]: a score of a bias below this is so far below 0 that its weight is 0
  // of each 32nd of an octave: where the next bucket begins, and the bias below and from there on
  std::int32_t* edge = nullptr;
  float* below_edge = nullptr;
  float* above_edge = nullptr;
};

/// A block of rows of one request and a block of keys.
struct Tile {
  std::int64_t request;
  std::int64_t row;
  std::int64_t rows;
  std::int64_t key;
  std::int64_t keys;
};

/// The two steps of a call for one set of instructions.
struct Kernel {
  void (*pack)(const Plan& plan, std::int64_t head) noexcept;                       // of B·H: key_t and reach
  void (*rows)(const Plan& plan, std::int64_t request, std::int64_t row) noexcept;  // kTileRows of mixed from row on
};

extern const Kernel kPortableKernel;
#ifdef ONERANKER_KERNELS_X86
extern const Kernel kAvx2Kernel;
extern const Kernel kAvx512Kernel;
#endif

}  // namespace oneranker::kernels
