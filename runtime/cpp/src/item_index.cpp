#include "item_index.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "error.h"
#include "id_lookup.h"
#include "item_tables.h"
#include "mapped_file.h"
#include "safetensors.h"
#include "sha256.h"
#include "unreadable.h"

namespace oneranker {
namespace {

std::uint64_t HexNumber(std::string_view digits) {
  std::uint64_t number = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), number, 16);
  return number;
}

std::string_view TextOf(std::span<const std::uint8_t> bytes, std::span<const std::int64_t> offsets, std::int64_t row) {
  const auto at = static_cast<std::size_t>(row);
  const auto begin = static_cast<std::size_t>(offsets[at]);
  const auto text = bytes.subspan(begin, static_cast<std::size_t>(offsets[at + 1]) - begin);
  return {reinterpret_cast<const char*>(text.data()), text.size()};
}

}  // namespace

struct ItemIndex::Impl {
  Impl(std::filesystem::path index_folder, ItemIndexHeader index_header, const std::filesystem::path& path)
      : folder(std::move(index_folder)), header(std::move(index_header)), file(path) {}

  std::filesystem::path folder;
  ItemIndexHeader header;
  MappedFile file;
  std::vector<std::vector<std::uint64_t>> aligned;  // copies of tables that do not lie where their dtype may
  ItemTableViews tables;
  std::span<const std::int32_t> item_fields;
  std::span<const std::uint8_t> name_bytes;
  std::span<const std::int64_t> name_offsets;
  std::span<const std::uint8_t> listed;
  std::vector<std::int32_t> default_eligible;
  IdLookup ids;

  void AddTable(const std::string& name, const StoredTensor& stored);
  void Prepare();
};

void ItemIndex::Impl::AddTable(const std::string& name, const StoredTensor& stored) {
  TensorView view;
  view.dtype = DTypeFromName(stored.dtype, name);
  view.shape.rank = stored.shape.size();
  std::copy(stored.shape.begin(), stored.shape.end(), view.shape.dims.begin());
  view.data = file.data() + stored.begin;
  if (stored.begin % SizeOf(view.dtype) != 0) {
    auto& copy = aligned.emplace_back((stored.bytes + 7) / 8);
    std::memcpy(copy.data(), view.data, stored.bytes);
    view.data = copy.data();
  }
  tables.emplace(name, view);
}

/// After all checks but that of the ids.
void ItemIndex::Impl::Prepare() {
  item_fields = ElementsOf<std::int32_t>(tables.at("item_fields"));
  name_bytes = ElementsOf<std::uint8_t>(tables.at("name_bytes"));
  name_offsets = ElementsOf<std::int64_t>(tables.at("name_offsets"));
  listed = ElementsOf<std::uint8_t>(tables.at("item_listed"));
  default_eligible.reserve(listed.size() + 1);
  default_eligible.push_back(0);
  for (const std::uint8_t flag : listed) default_eligible.push_back(default_eligible.back() + flag);
  // The version is a hash of the ids themselves: whoever picks them cannot aim at the hash that it keys.
  const std::string_view version = header.version;
  ids = IdLookup(ElementsOf<std::uint8_t>(tables.at("id_bytes")), ElementsOf<std::int64_t>(tables.at("id_offsets")),
                 HexNumber(version.substr(0, 16)), HexNumber(version.substr(16, 16)));
}

std::shared_ptr<const ItemIndex> ItemIndex::Read(const std::filesystem::path& folder) {
  ItemIndexHeader header = ReadItemIndexHeader(folder);
  const std::filesystem::path path = folder / "items.safetensors";
  const std::string where = path.string();
  std::unique_ptr<Impl> impl;
  StoredTensors stored;
  try {
    impl = std::make_unique<Impl>(folder, std::move(header), path);
    if (const std::string found = Sha256Of(impl->file.bytes()); found != impl->header.version) {
      Fail(ErrorKind::kBundle, where, ": got sha256 ", ShortDigest(found), ", expected ",
           ShortDigest(impl->header.version), " (index.json). The file was changed or cut after it was written. ",
           kWriteAgain);
    }
    stored = ReadSafetensors(impl->file.bytes());
  } catch (const Unreadable& problem) {
    Fail(ErrorKind::kBundle, where, ": got ", problem.what(), ", expected a safetensors file. ", kWriteAgain);
  }
  CheckLayout(stored, impl->header, where);
  for (const auto& [name, table] : stored) impl->AddTable(name, table);
  CheckFacts(impl->tables, impl->header, where);
  impl->Prepare();
  if (impl->ids.distinct() != impl->header.items) {
    Fail(ErrorKind::kBundle, where, ": got ", impl->ids.distinct(), " different ids, expected ", impl->header.items,
         ". ", kWriteAgain);
  }
  return std::make_shared<const ItemIndex>(std::move(impl));
}

ItemIndex::ItemIndex(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
ItemIndex::~ItemIndex() = default;

const std::filesystem::path& ItemIndex::folder() const noexcept { return impl_->folder; }
const ItemIndexHeader& ItemIndex::header() const noexcept { return impl_->header; }
std::span<const std::uint8_t> ItemIndex::listed() const noexcept { return impl_->listed; }
std::span<const std::int32_t> ItemIndex::default_eligible() const noexcept { return impl_->default_eligible; }

const TensorView* ItemIndex::Table(std::string_view name) const noexcept {
  const auto row = impl_->tables.find(name);
  return row == impl_->tables.end() ? nullptr : &row->second;
}

std::int64_t ItemIndex::Row(std::string_view id) const noexcept {
  static_assert(kUnknownItem == -1);
  return impl_->ids.Row(id);
}

std::int64_t ItemIndex::item_field_count() const noexcept { return Table("item_fields")->shape.dims[1]; }

std::span<const std::int32_t> ItemIndex::ItemFields(std::int64_t row) const noexcept {
  if (!Has(row)) return {};
  const auto columns = static_cast<std::size_t>(impl_->item_fields.size() / impl_->listed.size());
  return impl_->item_fields.subspan(static_cast<std::size_t>(row) * columns, columns);
}

std::string_view ItemIndex::Id(std::int64_t row) const noexcept { return Has(row) ? impl_->ids.Id(row) : ""; }

std::string_view ItemIndex::Name(std::int64_t row) const noexcept {
  return Has(row) ? TextOf(impl_->name_bytes, impl_->name_offsets, row) : "";
}

bool ItemIndex::Has(std::int64_t row) const noexcept { return row >= 0 && row < impl_->header.items; }

void CheckItemFields(const ItemIndex& index, std::int64_t columns, std::int64_t rows) {
  const auto fields = ElementsOf<std::int32_t>(*index.Table("item_fields"));
  std::int32_t least = 0;
  std::int32_t most = 0;
  for (const std::int32_t field : fields) {
    least = std::min(least, field);
    most = std::max(most, field);
  }
  if (index.item_field_count() != columns || least < 0 || most >= rows) {
    Fail(ErrorKind::kBundle, index.folder(), ": item_fields has ", index.item_field_count(), " columns with rows ",
         least < 0 ? Joined("from ", least) : Joined("up to ", most), ", the tokenizer has ", columns,
         " and rows 0 .. ", rows - 1, ". Write the item index again with this bundle's tokenizer.");
  }
}

void CheckSameFamily(const ItemIndex& new_index, const ItemIndex& old_index) {
  const auto check = [&](std::string_view name, const auto& found, const auto& expected) {
    if (found == expected) return;
    Fail(ErrorKind::kBundle, new_index.folder(), ": ", name, " ", found, ", the serving model was built for ", expected,
         "; the old index ", ShortDigest(old_index.header().version),
         " keeps serving. Write the new index with this bundle's codebooks and anchors.");
  };
  const ItemIndexHeader& now = new_index.header();
  const ItemIndexHeader& before = old_index.header();
  check("levels", now.levels, before.levels);
  check("codes", now.codes, before.codes);
  check("width", now.width, before.width);
  check("anchors", now.anchors, before.anchors);
  check("item fields", new_index.item_field_count(), old_index.item_field_count());
  check("code space", now.code_space, before.code_space);
}

}  // namespace oneranker
