#include "chain.h"

#include <algorithm>
#include <vector>

#include "error.h"

namespace oneranker {
namespace {

/// Make room for one more: the binding that was unused for longest goes.
template <typename Bindings>
void Evict(Bindings& bindings, std::size_t most) {
  while (bindings.size() >= most) {
    bindings.erase(std::min_element(bindings.begin(), bindings.end(), [](const auto& one, const auto& other) {
      return one.second.last_used < other.second.last_used;
    }));
  }
}

}  // namespace

std::size_t Chain::KeyHash::operator()(const Key& key) const noexcept {
  std::uint64_t hash = key.stage;
  for (const std::int64_t size : {key.sizes.B, key.sizes.S, key.sizes.C, key.sizes.R}) {
    hash = (hash ^ static_cast<std::uint64_t>(size)) * 0x9E3779B97F4A7C15U;
    hash ^= hash >> 32;
  }
  return static_cast<std::size_t>(hash);
}

void Chain::Run(std::size_t stage, const RunSizes& sizes) { Run(without_items_, stage, sizes, nullptr, nullptr); }

void Chain::Run(std::size_t stage, const RunSizes& sizes, const ServedTables& tables, const TensorView& eligible) {
  Run(with_items_, stage, sizes, &tables, &eligible);
}

void Chain::Run(Bindings& bindings, std::size_t stage, const RunSizes& sizes, const ServedTables* tables,
                const TensorView* eligible) {
  const Key key{stage, sizes};
  auto found = bindings.find(key);
  if (found == bindings.end()) {
    Evict(bindings, most_bindings_);
    found = bindings.emplace(key, Bound{Bind(stage, sizes, tables, eligible)}).first;
  }
  found->second.last_used = ++runs_;
  found->second.binding->Run();
}

std::unique_ptr<Binding> Chain::Bind(std::size_t stage, const RunSizes& sizes, const ServedTables* tables,
                                     const TensorView* eligible) {
  Letters letters;
  letters.Set('B', sizes.B);
  letters.Set('S', sizes.S);
  letters.Set('C', sizes.C);
  letters.Set('R', sizes.R);
  if (tables != nullptr) {
    letters.Set('N', tables->items());
    letters.Set('P', tables->nodes());
  }
  const StageUse& use = plan_.stages().at(stage);
  std::vector<TensorView> inputs;
  std::vector<TensorView> outputs;
  for (const TensorUse& tensor : use.inputs) {
    if (tensor.source == Source::kMask) {
      inputs.push_back(plan_.masks().Get(tensor.spec, tensor.spec.Sized(letters)));
    } else if (tensor.source == Source::kArena) {
      inputs.push_back(arena_.View(tensor.place, tensor.spec.Sized(letters)));
    } else if (tables == nullptr) {
      Fail(ErrorKind::kBundle, use.name, ": reads '", tensor.spec.name,
           "' of the item index, expected only the retriever and the ranker to. ", kRebuild, ".");
    } else {
      inputs.push_back(tensor.spec.name == kEligible ? *eligible : tables->tensor(tensor.place));
    }
  }
  for (const TensorUse& tensor : use.outputs) {
    outputs.push_back(arena_.View(tensor.place, tensor.spec.Sized(letters)));
  }
  return stages_.at(stage)->Bind(inputs, outputs);
}

}  // namespace oneranker
