"""What tests of several wings need: models made on the spot, files written by hand, evidence by hand."""
