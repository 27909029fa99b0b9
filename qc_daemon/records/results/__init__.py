"""What was made of it: findings, report objects, rejections."""
