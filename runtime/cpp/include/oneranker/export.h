/// Which symbols the shared library shows.
#pragma once

#if defined(__GNUC__)
#define ONERANKER_API __attribute__((visibility("default")))
#else
#define ONERANKER_API
#endif
