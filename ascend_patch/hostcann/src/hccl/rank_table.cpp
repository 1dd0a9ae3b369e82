// Communicators from a rank table, the JSON file of "rank table configuration" in the HCCL user guide (version 1.0 of
// A2, 1.2 of A3: the fields read here are the same). hostcann connects the ranks of one machine: one server.
#include <cstdlib>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <unistd.h>

#include "communicator.h"
#include "json.h"
#include "rendezvous.h"

namespace hostcann::hccl {
namespace {

struct RankTable {
  std::string identity;  // the same for all who read the same table
  uint32_t ranks = 0;
};

uint32_t number(const Json& entry, const char* name) {
  const std::string& text = entry.member(name).text;
  char* end = nullptr;
  const unsigned long value = std::strtoul(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0') throw std::invalid_argument(std::string("\"") + name + "\" is not a number");
  return static_cast<uint32_t>(value);
}

RankTable parse(const std::string& text) {
  const Json table = Json::parse(text);
  const std::string& status = table.member("status").text;
  if (status != "completed") throw std::invalid_argument("\"status\" is \"" + status + "\", not \"completed\"");
  const std::string& version = table.member("version").text;
  if (version != "1.0" && version != "1.2") throw std::invalid_argument("version " + version + " is not known");
  const std::vector<Json>& servers = table.member("server_list", Json::Kind::kArray).items;
  if (number(table, "server_count") != servers.size()) {
    throw std::invalid_argument("\"server_count\" is not the length of \"server_list\"");
  }
  RankTable result;
  std::set<uint32_t> ranks;
  std::set<std::string> devices;
  for (const Json& server : servers) {
    const std::string& id = server.member("server_id").text;
    for (const Json& device : server.member("device", Json::Kind::kArray).items) {
      const uint32_t rank = number(device, "rank_id");
      const std::string place = id + "/" + std::to_string(number(device, "device_id"));
      if (!ranks.insert(rank).second) throw std::invalid_argument("rank_id " + std::to_string(rank) + " is there twice");
      if (!devices.insert(place).second) throw std::invalid_argument("device " + place + " is there twice");
      result.identity += std::to_string(rank) + "=" + place + ";";
    }
  }
  result.ranks = static_cast<uint32_t>(ranks.size());
  if (ranks.empty() || *ranks.rbegin() + 1 != ranks.size()) {
    throw std::invalid_argument("the rank_ids are not 0 to the number of devices - 1");
  }
  if (servers.size() != 1) throw std::domain_error("it has several servers, hostcann connects ranks of one machine");
  return result;
}

}  // namespace
}  // namespace hostcann::hccl

using namespace hostcann;
using namespace hostcann::hccl;

ACL_API int HcclCommInitClusterInfoConfig(const char* path, uint32_t rank, const void* config, void** handle) {
  constexpr const char* kFunction = "HcclCommInitClusterInfo";
  if (path == nullptr) return refuse(kNullPointer, kFunction, "null pointer");
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return refuse(kOpenFile, kFunction, std::string("the rank table ") + path + " cannot be read");
  RankTable table;
  try {
    table = parse(text.str());
  } catch (const std::domain_error& error) {
    return refuse(kNotSupported, kFunction, std::string("rank table ") + path + ": " + error.what());
  } catch (const std::invalid_argument& error) {
    return refuse(kBadParameter, kFunction, std::string("EI0004: rank table ") + path + ": " + error.what());
  }
  // Other users of the machine may have the same table.
  const std::string name = "table-" + std::to_string(getuid()) + "-" +
                           std::to_string(std::hash<std::string>()(table.identity));
  return create(kFunction, rank, table.ranks, config, handle,
                [&](double timeout) { return meet(name, rank, table.ranks, timeout); });
}

ACL_API int HcclCommInitClusterInfo(const char* path, uint32_t rank, void** handle) {
  return HcclCommInitClusterInfoConfig(path, rank, nullptr, handle);
}
