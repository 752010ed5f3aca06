"""What every room uses: errors, files, checks, names of classes, random draws."""
