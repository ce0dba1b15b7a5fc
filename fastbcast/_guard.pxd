# Python calls what is here; there is nothing to cimport.
