#include "silu_attention_tile.h"

namespace oneranker::kernels {

const Kernel kAvx512Kernel = {Pack, Rows};

}  // namespace oneranker::kernels
