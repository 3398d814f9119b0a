"""What confines every process that touches an upload: layers of the kernel, and the program that puts them on."""
