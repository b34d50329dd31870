"""Which earlier turn does a request go on from, that brings its whole history along?"""
