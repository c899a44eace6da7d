# Headers and library of ONNX Runtime: ONNXRUNTIME_INCLUDE_DIR and ONNXRUNTIME_LIBRARY if given, else below
# ONNXRUNTIME_ROOT, else the system's. Makes OnnxRuntime::OnnxRuntime. COMPONENTS library asks for no headers.
include(FindPackageHandleStandardArgs)
set(ONNXRUNTIME_ROOT "" CACHE PATH "where ONNX Runtime was unpacked: include/ and lib/ lie in it")
find_path(ONNXRUNTIME_INCLUDE_DIR onnxruntime_cxx_api.h HINTS ${ONNXRUNTIME_ROOT} PATH_SUFFIXES include include/onnxruntime
          onnxruntime DOC "folder of onnxruntime_cxx_api.h")
find_library(ONNXRUNTIME_LIBRARY NAMES onnxruntime libonnxruntime.so.1 HINTS ${ONNXRUNTIME_ROOT} PATH_SUFFIXES lib
             DOC "libonnxruntime.so")

unset(versioned)
set(needed ONNXRUNTIME_LIBRARY ONNXRUNTIME_INCLUDE_DIR)
if("library" IN_LIST OnnxRuntime_FIND_COMPONENTS)
  set(OnnxRuntime_library_FOUND ON)
  set(needed ONNXRUNTIME_LIBRARY)
elseif(ONNXRUNTIME_INCLUDE_DIR AND EXISTS ${ONNXRUNTIME_INCLUDE_DIR}/onnxruntime_c_api.h)
  file(STRINGS ${ONNXRUNTIME_INCLUDE_DIR}/onnxruntime_c_api.h OnnxRuntime_VERSION REGEX "^#define ORT_API_VERSION [0-9]+")
  string(REGEX REPLACE "^#define ORT_API_VERSION ([0-9]+).*" "1.\\1" OnnxRuntime_VERSION "${OnnxRuntime_VERSION}")
  set(versioned VERSION_VAR OnnxRuntime_VERSION)
endif()
find_package_handle_standard_args(OnnxRuntime REQUIRED_VARS ${needed} ${versioned} HANDLE_COMPONENTS REASON_FAILURE_MESSAGE
  "OnnxRuntime: headers at '${ONNXRUNTIME_INCLUDE_DIR}', library at '${ONNXRUNTIME_LIBRARY}', expected both, of 1.21 or \
newer. Run runtime/cpp/configure, or give -DONNXRUNTIME_ROOT=<folder with include/ and lib/>, or \
-DONNXRUNTIME_INCLUDE_DIR=<folder of onnxruntime_cxx_api.h> -DONNXRUNTIME_LIBRARY=<libonnxruntime.so>.")

if(OnnxRuntime_FOUND AND NOT TARGET OnnxRuntime::OnnxRuntime)
  add_library(OnnxRuntime::OnnxRuntime UNKNOWN IMPORTED)
  set_target_properties(OnnxRuntime::OnnxRuntime PROPERTIES IMPORTED_LOCATION "${ONNXRUNTIME_LIBRARY}")
  if(ONNXRUNTIME_INCLUDE_DIR)
    set_target_properties(OnnxRuntime::OnnxRuntime PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${ONNXRUNTIME_INCLUDE_DIR}")
  endif()
endif()
mark_as_advanced(ONNXRUNTIME_INCLUDE_DIR ONNXRUNTIME_LIBRARY)
