// As much of JSON as a rank table needs: objects, arrays, strings, numbers; no escapes but \" and \\.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace hostcann::hccl {

struct Json {
  enum class Kind { kText, kArray, kObject } kind = Kind::kText;
  std::string text;  // of a string, or a number, true, false and null as they are written
  std::vector<Json> items;
  std::map<std::string, Json> members;

  // Throws std::invalid_argument with the position.
  static Json parse(const std::string& source);

  // The member `name`. Throws std::invalid_argument if there is none or it has another kind.
  const Json& member(const std::string& name, Kind wanted = Kind::kText) const;
};

}  // namespace hostcann::hccl
