"""Files that may be a stranger's, opened so that none of them hangs, fills the memory or ends in a
traceback. No size that a file declares is believed before it has been compared with the file's own."""
