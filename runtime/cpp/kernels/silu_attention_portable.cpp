#include "silu_attention_tile.h"

namespace oneranker::kernels {

const Kernel kPortableKernel = {Pack, Rows};

}  // namespace oneranker::kernels
