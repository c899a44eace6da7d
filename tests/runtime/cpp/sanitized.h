/// Whether this program was built with a sanitizer that brings its own operator new.
#pragma once

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ONERANKER_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define ONERANKER_SANITIZED 1
#endif
#endif

#ifndef ONERANKER_SANITIZED
#define ONERANKER_SANITIZED 0
#endif
