//===- moe-cpu.cpp - features that a described machine lacks --------------===//
//
//   moe-cpu FLAGS DENIED grants|refuses REQUIRED...      lists with commas between; "-" is an empty one
//
// FLAGS: what the kernel lists; DENIED: what cpuid denies; then what the kernel says to a request for the registers of
// AMX. Prints what is missing, and how often the kernel was asked. With several lists, those of the versions of a
// module, the number of the one that a loader takes, from 0 on.
//
//===----------------------------------------------------------------------===//
#include "CpuFeatures.h"
#include <cstdio>
#include <cstring>
#include <sstream>

static std::set<std::string> denied;
static bool grants = false;
static int asked = 0;

static std::vector<std::string> split(const char *list) {
  std::vector<std::string> words;
  std::istringstream stream(std::strcmp(list, "-") ? list : "");
  for (std::string word; std::getline(stream, word, ',');)
    words.push_back(word);
  return words;
}

int main(int argc, char **argv) {
  if (argc < 5)
    return 2;
  std::vector<std::string> flags = split(argv[1]), no = split(argv[2]);
  denied.insert(no.begin(), no.end());
  grants = !std::strcmp(argv[3], "grants");
  moe::rt::CpuFacts facts{{flags.begin(), flags.end()},
                          [](const std::string &feature) { return denied.count(feature) != 0; },
                          [] {
                            ++asked;
                            return grants;
                          }};
  if (argc > 5) {
    std::vector<std::vector<std::string>> versions;
    for (int i = 4; i < argc; ++i)
      versions.push_back(split(argv[i]));
    std::printf("version %d\n", int(moe::rt::lastRunnable(versions, facts)) - 1);
    return 0;
  }
  std::printf("missing:");
  for (const std::string &feature : moe::rt::missingCpuFeatures(split(argv[4]), facts))
    std::printf(" %s", feature.c_str());
  std::printf("; asked %d\n", asked);
}
