// worker_thread.h - a thread that works for workers: waits, lets each do a flight of what is ready,
// and looks again. The first thread works for all workers as long as one thread is enough, so that
// the answer to a packet is read by the thread that is awake anyway; where it is not, each worker
// has a thread of its own (docs/adr/0007-one-thread-while-it-is-enough.md).
#pragma once

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "worker.h"

namespace culvert {

class WorkerThread {
 public:
  // When a worker changes threads, in percent of the time in which a thread did not rest.
  struct Limits {
    uint64_t weigh_ms = 8;   // how often the threads look
    uint64_t alone = 60;     // above it the first thread hands its busiest worker over
    uint64_t together = 30;  // what the first and one other must be below to become one again
  };

  // Thread `index` of all; they and the workers must outlive each other's threads. Worker `index`
  // is its own. JS thread, as all below.
  WorkerThread(size_t index, const std::vector<std::unique_ptr<WorkerThread>>& threads,
               const std::vector<std::unique_ptr<Worker>>& workers, Limits limits)
      : index_(index), threads_(threads), workers_(workers), limits_(limits) {}
  ~WorkerThread() { stop(); }
  WorkerThread(const WorkerThread&) = delete;
  WorkerThread& operator=(const WorkerThread&) = delete;

  // Opens what it waits with. Returns 0 or an errno. To be called for all before any starts.
  [[nodiscard]] int open();
  // Starts the thread; the first one begins to work for all workers. Returns 0 or an errno.
  [[nodiscard]] int start();
  // Ends the thread after the flight it is in, and waits for that; idempotent. All are to be
  // stopped before one is destroyed.
  void stop();

 private:
  // More than are ready at once wait for the next look.
  static constexpr int kMostReady = 16;
  static constexpr uint32_t kStop = UINT32_MAX;

  void run();
  [[nodiscard]] bool frames_wait() const;
  void weigh(uint64_t now);
  void hand_over(uint64_t busy, uint64_t now);
  void give_back(uint64_t busy, uint64_t now);

  const size_t index_;
  const std::vector<std::unique_ptr<WorkerThread>>& threads_;
  const std::vector<std::unique_ptr<Worker>>& workers_;
  const Limits limits_;
  UniqueFd epoll_;
  UniqueFd stop_;
  // What the last weighing found, until then it holds: percent in the low byte, then ms. Relaxed:
  // a guide, it orders nothing.
  std::atomic<uint64_t> busy_{0};
  uint64_t weigh_at_ = 0;  // ms
  uint64_t weighed_ns_ = 0;
  uint64_t rested_ns_ = 0;  // since then
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace culvert
