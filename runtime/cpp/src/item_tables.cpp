#include "item_tables.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "error.h"
#include "python_text.h"
#include "sha256.h"
#include "trie_check.h"
#include "utf8_check.h"

namespace oneranker {
namespace {

struct TableSpec {
  std::string_view name;
  std::string_view dtype;
  std::array<std::string_view, 3> letters;  // empty ones at the end: lower rank
  bool optional = false;

  [[nodiscard]] std::size_t rank() const noexcept {
    return static_cast<std::size_t>(std::count_if(letters.begin(), letters.end(), [](auto l) { return !l.empty(); }));
  }
};

// A letter that is not in the header (Fi, bytes) binds at its first use.
constexpr std::array kTables{
    TableSpec{"codes", "int32", {"N", "L"}},          TableSpec{"codebooks", "float32", {"L", "V", "D"}},
    TableSpec{"anchors", "float32", {"A", "D"}},      TableSpec{"trie_code", "int32", {"P"}},
    TableSpec{"trie_children_begin", "int32", {"P"}}, TableSpec{"trie_children_end", "int32", {"P"}},
    TableSpec{"trie_items_begin", "int32", {"P"}},    TableSpec{"trie_items_end", "int32", {"P"}},
    TableSpec{"item_table", "float32", {"N", "D"}},   TableSpec{"item_vectors", "float32", {"N", "D+A"}, true},
    TableSpec{"item_fields", "int32", {"N", "Fi"}},   TableSpec{"item_listed", "uint8", {"N"}},
    TableSpec{"id_bytes", "uint8", {"id bytes"}},     TableSpec{"id_offsets", "int64", {"N+1"}},
    TableSpec{"name_bytes", "uint8", {"name bytes"}}, TableSpec{"name_offsets", "int64", {"N+1"}},
};

/// Letters and their sizes, in the order of binding.
class Bound {
 public:
  explicit Bound(const ItemIndexHeader& header)
      : sizes_{{"N", header.items},       {"L", header.levels},
               {"V", header.codes},       {"D", header.width},
               {"A", header.anchors},     {"P", header.nodes},
               {"N+1", header.items + 1}, {"D+A", header.width + header.anchors}} {}

  bool Binds(std::string_view letter, std::int64_t size) {
    const auto row =
        std::find_if(sizes_.begin(), sizes_.end(), [&](const auto& known) { return known.first == letter; });
    if (row != sizes_.end()) return row->second == size;
    sizes_.emplace_back(letter, size);
    return true;
  }

  [[nodiscard]] std::string Text() const {
    std::string text;
    for (const auto& [letter, size] : sizes_) text += Joined(text.empty() ? "" : ", ", letter, "=", size);
    return text;
  }

 private:
  std::vector<std::pair<std::string_view, std::int64_t>> sizes_;
};

void CheckNames(const StoredTensors& tables, const std::string& where) {
  std::vector<std::string> found;
  for (const auto& row : tables) found.push_back(row.first);
  std::vector<std::string> required;
  std::vector<std::string> optional;
  std::size_t known = 0;
  for (const TableSpec& spec : kTables) {
    (spec.optional ? optional : required).emplace_back(spec.name);
    known += tables.contains(spec.name) ? 1 : 0;
  }
  std::sort(required.begin(), required.end());
  const bool whole =
      std::all_of(required.begin(), required.end(), [&](const auto& name) { return tables.contains(name); });
  if (!whole || known != found.size()) {
    Fail(ErrorKind::kBundle, where, ": got the tables ", ListText(found), ", expected ", ListText(required),
         " and at most ", ListText(optional), " more. ", kWriteAgain);
  }
}

bool IsCut(std::span<const std::int64_t> offsets, std::size_t bytes) {
  if (offsets.front() != 0 || offsets.back() != static_cast<std::int64_t>(bytes)) return false;
  std::int64_t before = 0;
  bool rises = true;  // no early end: the loop is a vector's then
  for (const std::int64_t offset : offsets) {
    rises &= before <= offset;
    before = offset;
  }
  return rises;
}

/// After IsCut.
bool IsCutText(std::span<const std::uint8_t> bytes, std::span<const std::int64_t> offsets) {
  const bool between = std::all_of(offsets.begin(), offsets.end(), [&](std::int64_t offset) {
    const auto at = static_cast<std::size_t>(offset);
    return at == bytes.size() || !ContinuesCharacter(bytes[at]);
  });
  return between && IsUtf8(bytes);
}

bool AreWithin(std::span<const std::int32_t> codes, std::int64_t stop) {
  std::int32_t least = 0;
  std::int32_t most = 0;
  for (const std::int32_t code : codes) {
    least = std::min(least, code);
    most = std::max(most, code);
  }
  return least >= 0 && most < stop;
}

}  // namespace

void CheckLayout(const StoredTensors& tables, const ItemIndexHeader& header, const std::string& where) {
  CheckNames(tables, where);
  Bound bound(header);
  for (const TableSpec& spec : kTables) {
    const auto row = tables.find(spec.name);
    if (row == tables.end()) continue;
    const StoredTensor& table = row->second;
    bool fits = table.dtype == spec.dtype && table.shape.size() == spec.rank();
    for (std::size_t i = 0; fits && i < spec.rank(); ++i) fits = bound.Binds(spec.letters.at(i), table.shape[i]);
    if (fits) continue;
    std::string letters;
    for (std::size_t i = 0; i < spec.rank(); ++i) letters += Joined(i == 0 ? "" : ", ", spec.letters.at(i));
    Fail(ErrorKind::kBundle, where, ": '", spec.name, "' is ", table.dtype, " ", ListText(table.shape), ", expected ",
         spec.dtype, " [", letters, "] (bound so far: ", bound.Text(), "). ", kWriteAgain);
  }
}

void CheckFacts(const ItemTableViews& tables, const ItemIndexHeader& header, const std::string& where) {
  const auto table = [&tables](std::string_view name) -> const TensorView& { return tables.find(name)->second; };
  if (const std::string found = CodeSpaceOf(table("codebooks"), table("anchors")); found != header.code_space) {
    Fail(ErrorKind::kBundle, where, ": codebooks and anchors have code space ", ShortDigest(found), ", expected ",
         ShortDigest(header.code_space), " (index.json). ", kWriteAgain);
  }
  const auto expect = [&where](bool holds, std::string_view kind, std::string_view fact) {
    if (holds) return;
    Fail(ErrorKind::kBundle, where, ": got tables that break a rule, expected ", kind, fact, ". ", kWriteAgain);
  };
  const auto codes = ElementsOf<std::int32_t>(table("codes"));
  expect(AreWithin(codes, header.codes), "", "codes within 0 .. V-1");
  const auto listed = ElementsOf<std::uint8_t>(table("item_listed"));
  expect(*std::max_element(listed.begin(), listed.end()) <= 1, "", "item_listed of 0 and 1");
  const TrieView trie{
      ElementsOf<std::int32_t>(table("trie_code")), ElementsOf<std::int32_t>(table("trie_children_begin")),
      ElementsOf<std::int32_t>(table("trie_children_end")), ElementsOf<std::int32_t>(table("trie_items_begin")),
      ElementsOf<std::int32_t>(table("trie_items_end"))};
  expect(TrieSpells(trie, codes, static_cast<std::size_t>(header.levels)), "",
         "a trie that spells the rows of codes, level by level");
  for (const std::string_view kind : {"id", "name"}) {
    const auto bytes = ElementsOf<std::uint8_t>(table(Joined(kind, "_bytes")));
    const auto offsets = ElementsOf<std::int64_t>(table(Joined(kind, "_offsets")));
    expect(IsCut(offsets, bytes.size()), kind, Joined("_offsets that rise from 0 to the end of ", kind, "_bytes"));
    expect(IsCutText(bytes, offsets), kind, "_bytes of UTF-8 text, cut between characters");
  }
}

std::string CodeSpaceOf(const TensorView& codebooks, const TensorView& anchors) {
  Sha256 sha;
  sha.Update(std::as_bytes(ElementsOf<float>(codebooks)));
  sha.Update(std::as_bytes(ElementsOf<float>(anchors)));
  return sha.HexDigest();
}

}  // namespace oneranker
