"""Files for other programs, made from the course or from results.json: notebooks, gradebooks, repositories, scores."""
