# Headers and library of TensorRT, below TENSORRT_ROOT or in the system. Makes TensorRT::TensorRT. Not run in CI.
include(FindPackageHandleStandardArgs)
set(TENSORRT_ROOT "" CACHE PATH "where TensorRT was unpacked: include/ and lib/ lie in it")
find_path(TENSORRT_INCLUDE_DIR NvInfer.h HINTS ${TENSORRT_ROOT} PATH_SUFFIXES include DOC "folder of NvInfer.h")
find_library(TENSORRT_LIBRARY NAMES nvinfer HINTS ${TENSORRT_ROOT} PATH_SUFFIXES lib lib64 DOC "libnvinfer.so")
find_package_handle_standard_args(TensorRT REQUIRED_VARS TENSORRT_LIBRARY TENSORRT_INCLUDE_DIR REASON_FAILURE_MESSAGE
  "ONERANKER_WITH_TENSORRT: NvInfer.h in '${TENSORRT_INCLUDE_DIR}', libnvinfer at '${TENSORRT_LIBRARY}', expected both. Give \
-DTENSORRT_ROOT=<the unpacked TensorRT>, or configure with -DONERANKER_WITH_TENSORRT=OFF.")
if(TensorRT_FOUND AND NOT TARGET TensorRT::TensorRT)
  add_library(TensorRT::TensorRT UNKNOWN IMPORTED)
  set_target_properties(TensorRT::TensorRT PROPERTIES IMPORTED_LOCATION "${TENSORRT_LIBRARY}"
                        INTERFACE_INCLUDE_DIRECTORIES "${TENSORRT_INCLUDE_DIR}")
endif()
mark_as_advanced(TENSORRT_INCLUDE_DIR TENSORRT_LIBRARY)
