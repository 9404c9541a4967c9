// Measures what the machine can do, for the roofline: read bandwidth and f32 multiply-add rate, on 1 and on all given
// threads. Prints JSON. Built by bench.py with -O3 -march=native.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef float v16 __attribute__((vector_size(64)));
enum { STREAM_BYTES = 256 << 20, REPEATS = 5 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

typedef struct {
  int kind;
  char *data;
  double rate;
  pthread_barrier_t *barrier;
} Job;

// Reads `bytes` in `streams` streams, prefetching `ahead` bytes; the sum keeps the loads alive.
static float read_stream(const char *p, size_t bytes, int streams, size_t ahead) {
  v16 sum[4] = {0};
  size_t part = bytes / streams;
  for (size_t i = 0; i < part; i += 256)
    for (int s = 0; s < streams; ++s)
      for (int l = 0; l < 4; ++l) {
        const char *q = p + s * part + i + 64 * l;
        if (ahead)
          __builtin_prefetch(q + ahead, 0, 2);
        sum[l] += *(const v16 *)q;
      }
  v16 all = sum[0] + sum[1] + sum[2] + sum[3];
  return all[0];
}

static volatile float sink;

static void *work(void *argument) {
  Job *job = argument;
  double best = 0;
  for (int r = 0; r < REPEATS; ++r) {
    if (job->kind == 0) {
      static const struct {
        int streams;
        size_t ahead;
      } variants[] = {{1, 0}, {1, 2048}, {1, 8192}, {4, 1024}, {4, 4096}, {8, 2048}};
      for (size_t v = 0; v < sizeof variants / sizeof *variants; ++v) {
        pthread_barrier_wait(job->barrier);
        double t = now();
        sink = read_stream(job->data, STREAM_BYTES - (64 << 10), variants[v].streams, variants[v].ahead);
        double rate = STREAM_BYTES / (now() - t);
        best = rate > best ? rate : best;
      }
    } else {
      enum { ACC = 24, STEPS = 1 << 21 };
      v16 acc[ACC], x, y;
      for (int i = 0; i < 16; ++i)
        x[i] = 1.0f + 1e-7f * i, y[i] = 1e-9f;
      memset(acc, 0, sizeof acc);
      pthread_barrier_wait(job->barrier);
      double t = now();
      for (int s = 0; s < STEPS; ++s) {
        for (int a = 0; a < ACC; ++a)
          acc[a] = acc[a] * x + y;
        __asm__ volatile("" : "+v"(x), "+v"(y));
      }
      double rate = 2.0 * 16 * ACC * STEPS / (now() - t);
      best = rate > best ? rate : best;
      for (int a = 1; a < ACC; ++a)
        acc[0] += acc[a];
      sink = acc[0][0];
    }
  }
  job->rate = best;
  return 0;
}

static double measure(int kind, int threads, char *data) {
  pthread_t ids[64];
  Job jobs[64];
  pthread_barrier_t barrier;
  pthread_barrier_init(&barrier, 0, threads);
  for (int i = 0; i < threads; ++i) {
    jobs[i] = (Job){kind, data + (size_t)i * STREAM_BYTES, 0, &barrier};
    pthread_create(&ids[i], 0, work, &jobs[i]);
  }
  double sum = 0;
  for (int i = 0; i < threads; ++i) {
    pthread_join(ids[i], 0);
    sum += jobs[i].rate;
  }
  return sum;
}

int main(int argc, char **argv) {
  int threads = argc > 1 ? atoi(argv[1]) : 1;
  if (threads < 1 || threads > 64)
    return 2;
  char *data;
  size_t bytes = (size_t)threads * STREAM_BYTES;
  if (posix_memalign((void **)&data, 4096, bytes))
    return 1;
  memset(data, 1, bytes);
  double stream = measure(0, threads, data), fma = measure(1, threads, data);
  printf("{\"threads\": %d, \"stream_bytes_per_s\": %.4g, \"f32_flop_per_s\": %.4g}\n", threads, stream, fma);
  return 0;
}
