#include "arena.h"

#include <algorithm>

#include "error.h"
#include "host_memory.h"

namespace oneranker {

std::size_t BytesOf(const TensorSpec& spec, const Shape& shape) {
  constexpr std::size_t kMost = std::size_t{1} << 46;
  std::size_t bytes = SizeOf(spec.dtype);
  for (std::size_t i = 0; i < shape.rank; ++i) {
    const std::int64_t size = shape.dims.at(i);
    if (size < 0 || (size > 0 && bytes > kMost / static_cast<std::size_t>(size))) {
      Fail(ErrorKind::kBundle, "tensor '", spec.name, "': ", shape.Text(), " of ", NameOf(spec.dtype),
           " has no size that a machine could hold. ", kRebuild, " with smaller --max-shapes.");
    }
    bytes *= static_cast<std::size_t>(size);
  }
  return bytes;
}

ArenaLayout::ArenaLayout(std::span<const TensorSpec* const> specs, const Letters& limits) {
  for (const TensorSpec* spec : specs) Add(*spec, limits);
  for (Entry& entry : entries_) {
    entry.begin = bytes_;
    bytes_ += Aligned(entry.bytes);
  }
}

void ArenaLayout::Add(const TensorSpec& spec, const Letters& limits) {
  const std::size_t bytes = BytesOf(spec, spec.Sized(limits));
  const auto known =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.spec->name == spec.name; });
  if (known == entries_.end()) {
    entries_.push_back({.spec = &spec, .bytes = bytes});
    return;
  }
  if (known->spec->dtype != spec.dtype || known->spec->shape.size() != spec.shape.size()) {
    Fail(ErrorKind::kBundle, "tensor '", spec.name, "': one stage says ", known->spec->Text(), ", another ",
         spec.Text(), ", expected the same. ", kRebuild, ".");
  }
  known->bytes = std::max(known->bytes, bytes);
}

bool ArenaLayout::Has(std::string_view name) const noexcept {
  return std::any_of(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.spec->name == name; });
}

std::size_t ArenaLayout::Place(std::string_view name) const {
  for (std::size_t place = 0; place < entries_.size(); ++place) {
    if (entries_[place].spec->name == name) return place;
  }
  Fail(ErrorKind::kBundle, "tensor '", name, "': no stage of this bundle has it, expected one. ", kRebuild, ".");
}

std::size_t ArenaLayout::HostPlace(std::string_view name, DType dtype) {
  const std::size_t place = Place(name);
  Entry& entry = entries_[place];
  if (entry.spec->dtype != dtype) {
    Fail(ErrorKind::kBundle, "tensor '", name, "' is ", entry.spec->Text(), ", expected ", NameOf(dtype), ". ",
         kRebuild, ".");
  }
  if (!entry.at_host) {
    entry.at_host = true;
    entry.mirror = mirror_bytes_;
    mirror_bytes_ += Aligned(entry.bytes);
  }
  return place;
}

Arena::Arena(const ArenaLayout& layout, Memory& memory)
    : layout_(layout), memory_(memory), block_(memory.Allocate(layout.bytes_, "the tensors between the stages")) {
  if (!memory.is_host()) mirror_ = HostMemory().Allocate(layout.mirror_bytes_, "what travels to the device");
}

TensorView Arena::View(std::size_t place, const Shape& shape) const {
  const ArenaLayout::Entry& entry = layout_.entries_.at(place);
  CheckRoom(place, BytesOf(*entry.spec, shape));
  return {.data = block_.get() + entry.begin, .dtype = entry.spec->dtype, .shape = shape};
}

std::byte* Arena::HostBytes(std::size_t place, std::size_t bytes) const {
  CheckRoom(place, bytes);
  const ArenaLayout::Entry& entry = layout_.entries_[place];
  return mirror_ == nullptr ? block_.get() + entry.begin : mirror_.get() + entry.mirror;
}

void Arena::Send(std::size_t place, std::size_t bytes) {
  if (mirror_ == nullptr) return;
  memory_.Send(block_.get() + layout_.entries_[place].begin, HostBytes(place, bytes), bytes);
}

void Arena::Fetch(std::size_t place, std::size_t bytes) {
  if (mirror_ == nullptr) return;
  memory_.Fetch(HostBytes(place, bytes), block_.get() + layout_.entries_[place].begin, bytes);
}

void Arena::CheckRoom(std::size_t place, std::size_t bytes) const {
  const ArenaLayout::Entry& entry = layout_.entries_.at(place);
  if (bytes > entry.bytes) {
    Fail(ErrorKind::kBundle, "tensor '", entry.spec->name, "': ", bytes, " bytes are needed, its place has ",
         entry.bytes, ", the most that ", entry.spec->Text(), " has in the manifest's profile. ", kRebuild, ".");
  }
}

}  // namespace oneranker
