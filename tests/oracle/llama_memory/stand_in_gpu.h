// GPUs that only llama.cpp's accounting sees: buffers, supported operations and offloading as
// its CUDA backend has them, memory as it is set here. Nothing is ever computed on them.
#pragma once

#include <cstddef>

#include "ggml-backend.h"

constexpr int MAX_STAND_INS = 8;

ggml_backend_dev_t stand_in_gpu(int index);
void set_stand_in_memory(int index, size_t free_bytes);
