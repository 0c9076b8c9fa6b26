"""Where visits happen: in this process (`local`), or in Ray actors. The only package that imports ray."""
