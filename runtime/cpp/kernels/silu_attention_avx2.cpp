#include "silu_attention_tile.h"

namespace oneranker::kernels {

const Kernel kAvx2Kernel = {Pack, Rows};

}  // namespace oneranker::kernels
