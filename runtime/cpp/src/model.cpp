#include <utility>

#include "model_impl.h"
#include "only_errors.h"
#include "open_bundle.h"

namespace oneranker {

Model Model::Load(const std::filesystem::path& bundle, const Options& options) {
  return OnlyErrors([&] {
    auto impl = std::make_shared<Impl>();
    impl->loaded = std::make_shared<LoadedModel>(Open(bundle, options));
    return Model(std::move(impl));
  });
}

Model::Model(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

void Model::SwapItems(const std::filesystem::path& folder) {
  OnlyErrors([&] { Impl::Of(impl_).loaded->SwapItems(folder); });
}

std::string Model::index_version() const {
  return OnlyErrors([&] { return Impl::Of(impl_).loaded->items()->index().header().version; });
}

const std::string& Model::engine() const noexcept {
  static const std::string none;  // of a model that was moved from
  return impl_ == nullptr ? none : impl_->loaded->engine().name();
}

const std::string& Model::device() const noexcept {
  static const std::string none;
  return impl_ == nullptr ? none : impl_->loaded->engine().device();
}

std::int64_t Model::max_batch() const noexcept { return impl_ == nullptr ? 0 : impl_->loaded->max_batch(); }

std::int64_t Model::max_history() const noexcept { return impl_ == nullptr ? 0 : impl_->loaded->max_history(); }

std::int64_t Model::max_candidates() const noexcept { return impl_ == nullptr ? 0 : impl_->loaded->max_candidates(); }

}  // namespace oneranker
