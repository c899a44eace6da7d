/* OneRanker's C ABI: opaque handles, status codes, buffers of the caller. Same rules as oneranker/pipeline.h: a model
 * is for all threads, a pipeline for one at a time; nothing prints, exits or keeps global state. Every text is UTF-8.
 * A function that returns a status writes what happened into `error`, which may be NULL, and touches no output then. */
#ifndef ONERANKER_ONERANKER_H_
#define ONERANKER_ONERANKER_H_

#include <stddef.h>
#include <stdint.h>

#include "oneranker/export.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct oneranker_model oneranker_model;
typedef struct oneranker_pipeline oneranker_pipeline;
typedef struct oneranker_request oneranker_request;

enum oneranker_status {
  ONERANKER_OK = 0,
  ONERANKER_FAILED = 1, /* the engine stopped, its answer is no number, or the host has no memory left */
  ONERANKER_USAGE = 2,  /* a null pointer, options.threads out of range, or a pipeline used from two threads at once */
  ONERANKER_BUNDLE = 3, /* a bundle or an item index that is damaged or does not fit */
  ONERANKER_DEVICE = 5, /* an engine or a device that is not here or has no room */
  ONERANKER_FEED = 6,   /* more requests than max_batch, top_k below 1, or a model whose ranker reads features */
  ONERANKER_REQUEST = 7 /* one request is malformed: see position */
};

typedef struct oneranker_error {
  int32_t status;
  int64_t position;   /* of the request in its batch, or -1 */
  char message[1024]; /* where, got, expected, next step; cut at a whole character */
} oneranker_error;

typedef struct oneranker_options { /* zeroed: the defaults */
  const char* engine;              /* NULL: "auto" */
  const char* device;              /* NULL: "auto" */
  const char* items;               /* another item index than the bundle's own, or NULL */
  int32_t threads;                 /* 0: all cores, at most 1024 */
  const char* kernels;             /* liboneranker_kernels.so: fused attention for fp32 on the CPU; NULL: none */
} oneranker_options;

typedef struct oneranker_limits {
  int64_t max_batch;      /* B */
  int64_t max_history;    /* S */
  int64_t max_candidates; /* C */
  int64_t fields;         /* F */
} oneranker_limits;

typedef struct oneranker_item {
  const char* id; /* not zero-terminated; it lives until the next call with the pipeline */
  size_t id_size;
  const char* name;
  size_t name_size;
  float score;
  float logp;
  int32_t head;
  int32_t row;
} oneranker_item;

typedef struct oneranker_answer {
  int32_t count; /* items of this request */
  int64_t unknown_items;
  int64_t dropped;
  int64_t unknown_filter_ids;
  char index_version[65]; /* of the item index that answered */
} oneranker_answer;

ONERANKER_API const char* oneranker_version(void);

ONERANKER_API int oneranker_model_load(const char* bundle, const oneranker_options* options, oneranker_model** model,
                                       oneranker_error* error);
ONERANKER_API int oneranker_model_limits(const oneranker_model* model, oneranker_limits* limits,
                                         oneranker_error* error);
ONERANKER_API int oneranker_model_swap_items(oneranker_model* model, const char* folder, oneranker_error* error);
/* Of the index that serves now: 64 hex digits and a zero. */
ONERANKER_API int oneranker_model_index_version(const oneranker_model* model, char version[65], oneranker_error* error);
ONERANKER_API void oneranker_model_close(oneranker_model* model); /* pipelines made from it go on */

ONERANKER_API int oneranker_pipeline_create(const oneranker_model* model, oneranker_pipeline** pipeline,
                                            oneranker_error* error);
ONERANKER_API int oneranker_pipeline_warm_up(oneranker_pipeline* pipeline, oneranker_error* error);
ONERANKER_API void oneranker_pipeline_close(oneranker_pipeline* pipeline);

/* One JSON object; the text is not kept. */
ONERANKER_API int oneranker_request_from_json(const char* json, size_t size, oneranker_request** request,
                                              oneranker_error* error);
ONERANKER_API void oneranker_request_close(oneranker_request* request);

/* Fill answers [count] and items [count, top_k]: the items of request i begin at items + i * top_k. */
ONERANKER_API int oneranker_recommend(oneranker_pipeline* pipeline, const oneranker_request* const* requests,
                                      size_t count, int32_t top_k, oneranker_answer* answers, oneranker_item* items,
                                      oneranker_error* error);
/* Score own candidates: ids [count] zero-terminated texts -> scores [count]. One request. */
ONERANKER_API int oneranker_rank(oneranker_pipeline* pipeline, const oneranker_request* request, const char* const* ids,
                                 size_t count, float* scores, oneranker_error* error);
/* The integers of one request: token_fields [S, F], token_kind [S], token_time [S], S = max_history; length of them
 * set. */
ONERANKER_API int oneranker_encode(oneranker_pipeline* pipeline, const oneranker_request* request,
                                   int32_t* token_fields, int32_t* token_kind, int64_t* token_time, int64_t* length,
                                   oneranker_answer* answer, oneranker_error* error);

#ifdef __cplusplus
}
#endif

#endif /* ONERANKER_ONERANKER_H_ */
