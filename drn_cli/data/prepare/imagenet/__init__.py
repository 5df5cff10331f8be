"""ImageNet (ILSVRC2012), from archives or folders to class folders."""
