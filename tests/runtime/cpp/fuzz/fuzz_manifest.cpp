/// Any text as manifest.json and as index.json: read, or refused by an Error(kBundle) with a text.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "item_tables.h"
#include "manifest.h"
#include "oneranker/pipeline.h"

namespace {

template <typename Call>
void MustBeReadOrRefused(const Call& call) {
  try {
    call();
  } catch (const oneranker::Error& error) {
    const std::string_view text = error.what();
    if (error.kind() != oneranker::ErrorKind::kBundle || !text.starts_with("fuzz") || text.size() > 8000) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  MustBeReadOrRefused([text] {
    const oneranker::Manifest manifest = oneranker::Manifest::FromJson(text, "fuzz");
    if (manifest.stages.size() != oneranker::kStages.size() || manifest.profile.at('B').min < 1) std::abort();
  });
  MustBeReadOrRefused([text] { oneranker::ItemIndexHeaderFromJson(text, "fuzz"); });
  return 0;
}
