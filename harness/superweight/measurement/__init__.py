"""What conditions do to a model's predictions and to the text it writes."""
