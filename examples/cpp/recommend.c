/* Answers one raw request from a bundle through the C ABI: recommend_c BUNDLE REQUEST.json */
#include <stdio.h>
#include <stdlib.h>

#include "oneranker/oneranker.h"

enum { TOP_K = 5, LONGEST = 1 << 20 };

static int answer(oneranker_pipeline* pipeline, const char* json, size_t size, oneranker_error* error) {
  oneranker_request* request = NULL;
  oneranker_answer found;
  oneranker_item items[TOP_K];
  int status = oneranker_request_from_json(json, size, &request, error);
  if (status == ONERANKER_OK) {
    const oneranker_request* batch[] = {request};
    status = oneranker_recommend(pipeline, batch, 1, TOP_K, &found, items, error);
  }
  for (int i = 0; status == ONERANKER_OK && i < found.count; ++i) {
    printf("%g  %.*s  %.*s\n", items[i].score, (int)items[i].id_size, items[i].id, (int)items[i].name_size,
           items[i].name);
  }
  oneranker_request_close(request);
  return status;
}

int main(int argc, char** argv) {
  FILE* file = argc == 3 ? fopen(argv[2], "rb") : NULL;
  char* json = malloc(LONGEST);
  if (file == NULL || json == NULL) {
    fprintf(stderr, "usage: recommend_c BUNDLE REQUEST.json\n");
    return 2;
  }
  const size_t size = fread(json, 1, LONGEST, file);
  fclose(file);

  oneranker_error error = {0};
  oneranker_model* model = NULL;
  oneranker_pipeline* pipeline = NULL;
  int status = oneranker_model_load(argv[1], NULL, &model, &error);
  if (status == ONERANKER_OK) status = oneranker_pipeline_create(model, &pipeline, &error);
  if (status == ONERANKER_OK) status = answer(pipeline, json, size, &error);
  if (status != ONERANKER_OK) fprintf(stderr, "%s\n", error.message);
  oneranker_pipeline_close(pipeline);
  oneranker_model_close(model);
  free(json);
  return status == ONERANKER_OK ? 0 : status == ONERANKER_BUNDLE ? 3 : 1;
}
