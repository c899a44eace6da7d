#include "engine.h"
#include "error.h"

namespace oneranker {

std::unique_ptr<Engine> TensorRtEngine(const std::string& device) {
  Fail(ErrorKind::kDevice, "engine 'tensorrt' was asked for on ", device,
       ", this build of oneranker has no TensorRT. Ask for 'onnxruntime', or build again with "
       "-DONERANKER_WITH_TENSORRT=ON where the SDK is.");
}

}  // namespace oneranker
