-- Who was seen on which of the last 30 days: on how many pictures, how alike at best, from when until when.
WITH found AS (
  SELECT day, image_id, "timestamp", element_at(faces, n) AS face
  FROM processed
  CROSS JOIN UNNEST(sequence(1, greatest(1, cardinality(faces)))) AS place (n)
  WHERE day >= CAST(CAST(current_date - INTERVAL '30' DAY AS date) AS varchar)
)
SELECT
  day,
  face.person AS person,
  count(DISTINCT image_id) AS pictures,
  max(face.similarity) AS best_similarity,
  min("timestamp") AS first_seen,
  max("timestamp") AS last_seen
FROM found
WHERE face.person IS NOT NULL
GROUP BY day, face.person
ORDER BY day DESC, pictures DESC, person
