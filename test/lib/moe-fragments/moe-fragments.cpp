//===- moe-fragments.cpp - print the emulator's fragment layouts ----------===//
#include "cuda/Fragments.h"
#include <cstdio>

using namespace moe::rt::fragments;

int main() {
  auto print = [](const char *name, int lane, int element, Place place) {
    std::printf("%s %d %d %d %d\n", name, lane, element, place.row, place.column);
  };
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 8; ++i)
      print("A", lane, i, ofA(lane, i));
    for (int i = 0; i < 4; ++i)
      print("B", lane, i, ofB(lane, i));
    for (int i = 0; i < 4; ++i)
      print("C", lane, i, ofC(lane, i));
    for (int i = 0; i < 4; ++i)
      print("A32", lane, i, ofATf32(lane, i));
    for (int i = 0; i < 2; ++i)
      print("B32", lane, i, ofBTf32(lane, i));
    for (int half = 0; half < 2; ++half) {
      print("L", lane, half, ofLoadedMatrix(lane, half, false));
      print("LT", lane, half, ofLoadedMatrix(lane, half, true));
    }
  }
}
