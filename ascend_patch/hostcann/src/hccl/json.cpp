#include "json.h"

#include <cctype>
#include <stdexcept>

namespace hostcann::hccl {
namespace {

class Parser {
 public:
  explicit Parser(const std::string& source) : source_(source) {}

  Json document() {
    Json result = value(0);
    if (peek() != '\0') fail("something follows the end");
    return result;
  }

 private:
  [[noreturn]] void fail(const char* what) const {
    throw std::invalid_argument(std::string(what) + " at character " + std::to_string(at_));
  }

  char peek() {
    while (at_ < source_.size() && std::isspace(static_cast<unsigned char>(source_[at_])) != 0) ++at_;
    return at_ < source_.size() ? source_[at_] : '\0';
  }

  void expect(char wanted) {
    if (peek() != wanted) fail((std::string("missing ") + wanted).c_str());
    ++at_;
  }

  std::string quoted() {
    expect('"');
    std::string text;
    while (at_ < source_.size() && source_[at_] != '"') {
      if (source_[at_] == '\\') ++at_;
      if (at_ < source_.size()) text += source_[at_++];
    }
    expect('"');
    return text;
  }

  Json value(int depth) {
    constexpr int kDeepest = 32;
    if (depth > kDeepest) fail("too many levels");
    Json result;
    const char first = peek();
    if (first == '{') {
      result.kind = Json::Kind::kObject;
      ++at_;
      if (peek() != '}') {
        do {
          if (peek() == ',') ++at_;
          peek();
          std::string name = quoted();
          expect(':');
          result.members[std::move(name)] = value(depth + 1);
        } while (peek() == ',');
      }
      expect('}');
    } else if (first == '[') {
      result.kind = Json::Kind::kArray;
      ++at_;
      if (peek() != ']') {
        do {
          if (peek() == ',') ++at_;
          result.items.push_back(value(depth + 1));
        } while (peek() == ',');
      }
      expect(']');
    } else if (first == '"') {
      result.text = quoted();
    } else {
      while (at_ < source_.size() && (std::isalnum(static_cast<unsigned char>(source_[at_])) != 0 ||
                                      source_[at_] == '-' || source_[at_] == '+' || source_[at_] == '.')) {
        result.text += source_[at_++];
      }
      if (result.text.empty()) fail("a value is missing");
    }
    return result;
  }

  const std::string& source_;
  size_t at_ = 0;
};

}  // namespace

Json Json::parse(const std::string& source) { return Parser(source).document(); }

const Json& Json::member(const std::string& name, Kind wanted) const {
  const auto found = members.find(name);
  if (found == members.end()) throw std::invalid_argument("\"" + name + "\" is missing");
  if (found->second.kind != wanted) throw std::invalid_argument("\"" + name + "\" is not what it must be");
  return found->second;
}

}  // namespace hostcann::hccl
