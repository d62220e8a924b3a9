"""What other programs read, made from the course or from results.json: notebooks, gradebooks, repositories, scores."""
